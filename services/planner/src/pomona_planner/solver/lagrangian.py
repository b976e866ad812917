"""Prices of layers, stages and links, at which a question's plans are judged.

A plan is a choice of ranges, one for each node that it uses, which cover every layer once. With
a price for each layer, a node is worth the prices of a range less what the range costs. What
every plan costs at least is the price of all layers less what all nodes are worth at most:
Lagrange's relaxation (A. Geoffrion 1974) of set partitioning. Layers of one kind have one price,
the first and the last have their own; so the best prices are few, and the ellipsoid method finds
them (N. Shor 1977; deep cuts as in S. Boyd's and C. Barratt's lectures).

Links are priced too, a part for the sender and a part for the receiver, as the dual of the
assignment problem has it (H. Kuhn 1955): a plan is a way through the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array
from pomona_planner.solver.query import SolverQuery
from pomona_planner.solver.symmetry import link_classes

STEPS_OF_A_PRICE = 60
"""Steps of the ellipsoid method for each price that is sought."""
PRECISE = 1e-6
"""Share of the least cost to which prices are sought."""
HAIR = 1e-12
"""Share by which a sum of many small numbers may end above its exact value."""


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Attributes:
    before: (P,) of all layers before a position.
    stage: of each stage, when their number is fixed.
    out, into: (N,) for every two nodes ``out[a] + into[b] <= link[a, b]``.
    back: (N,) from each node as the tail to the cheapest head, whose ``into`` is saved.
    least: every plan costs at least this.
    """

    before: Array
    stage: float
    out: Array
    into: Array
    back: Array
    least: float


def best_prices(question: SolverQuery, used: Sequence[int] = ()) -> Prices:
    """Prices at which the least cost of all plans is as high as can be; or one at which it is
    above ``below``.

    Args: used: nodes of a good plan, if one is known; then links among them are priced well.
    """
    costs, kinds = question.costs, question.costs.kinds
    out, into = _link_prices(question, used)
    itself = np.where(np.eye(len(out), dtype=bool), np.inf, 0.0)
    back = (costs.back - into[None, :] + itself).min(axis=1)
    cheapest = kinds.cheapest(np.where(question.allowed, costs.stage, np.inf))
    cheapest[:, ~kinds.ends] += (out + into)[:, None]
    cheapest[:, kinds.ends & ~kinds.begins] += (into + back)[:, None]
    found, stage, least = _ellipsoid(question, cheapest, kinds.held, kinds.layers)
    before = np.concatenate(([0.0], np.cumsum(found[kinds.layers])))
    return Prices(before, stage, out, into, back, least)


def _ellipsoid(
    question: SolverQuery, cheapest: Array, held: Array, kinds: Array
) -> tuple[Array, float, float]:
    """(price of each kind of layer, price of a stage, what all plans cost at least at these).

    Args:
        cheapest: (N, R) of each kind of range.
        held: (R, K) layers of each kind in it.
        kinds: (P - 1,) of each layer.
    """
    count = held.shape[1]
    exact = question.fewest == question.most
    times = np.diff(question.costs.before, axis=1).mean(axis=0)
    whole = np.bincount(kinds, minlength=count).astype(float)
    start = np.bincount(kinds, times, count) / whole
    if exact:
        start = np.append(start, 0.0)
        held = np.column_stack((held, np.ones(len(held))))
        whole = np.append(whole, float(question.fewest))
    size = len(start)
    finite = cheapest[np.isfinite(cheapest)]
    if size < 2 or not len(finite):
        return start[:count], 0.0, -np.inf
    nodes = np.arange(len(cheapest))
    obliged = np.zeros(len(cheapest), dtype=bool)
    obliged[list(question.required)] = True
    reach = 4.0 * float(np.diff(question.costs.before, axis=1).max()) + float(finite.min())
    shape = np.eye(size) * reach**2
    here = best = start
    highest, rounding = -np.inf, 0.0
    for _ in range(STEPS_OF_A_PRICE * size):
        left = cheapest - held @ here
        at = left.argmin(axis=1)
        worth = left[nodes, at]
        use = (worth < 0) | (obliged & np.isfinite(worth))
        value = float(whole @ here + worth[use].sum())
        if value > highest:
            highest, best = value, here
            rounding = HAIR * float(whole @ np.abs(here) + np.abs(worth[use]).sum())
        if highest - rounding >= question.below:
            break
        slope = whole - held[at[use]].sum(axis=0)
        length = float(np.sqrt(max(slope @ shape @ slope, 0.0)))
        depth = (highest - value) / length if length > 0 else 1.0
        if length <= PRECISE * abs(highest) or depth >= 1:
            break
        step = shape @ slope / length
        here = here + (1 + size * depth) / (size + 1) * step
        outer = 2 * (1 + size * depth) / ((size + 1) * (1 + depth)) * np.outer(step, step)
        shape = size**2 / (size**2 - 1) * (1 - depth**2) * (shape - outer)
    return best[:count], float(best[count]) if exact else 0.0, highest - rounding


def _link_prices(question: SolverQuery, used: Sequence[int]) -> tuple[Array, Array]:
    """(out, into). Nodes with the same links have the same prices."""
    link = question.costs.link
    count = len(link)
    if count < 2:
        return np.zeros(count), np.zeros(count)
    finite = link[np.isfinite(link)]
    absent = 2.0 * float(finite.max(initial=0.0)) + 1.0
    whole = np.where(np.eye(count, dtype=bool), np.inf, np.minimum(link, absent))
    into = np.zeros(count)
    if len(used) > 1:
        among = list(used)
        into[among] = _assignment_prices(np.minimum(whole[np.ix_(among, among)], absent))
        out = (whole[:, among] - into[among]).min(axis=1)
    else:
        out = whole.min(axis=1)
    into = (whole - out[:, None]).min(axis=0)
    classes = link_classes(question)
    sizes = np.bincount(classes, minlength=count)
    mean = np.maximum(sizes, 1)
    return (
        (np.bincount(classes, out, count) / mean)[classes],
        (np.bincount(classes, into, count) / mean)[classes],
    )


def _assignment_prices(costs: Array) -> Array:
    """(N,) of the receivers in the cheapest assignment of N senders to N receivers.

    Shortest augmenting paths: each sender in turn is assigned, others give way along the path
    that costs least, and prices rise so that no other assignment looks cheaper.
    """
    count = len(costs)
    out, into = np.zeros(count), np.zeros(count + 1)
    sender_of = np.full(count + 1, -1)
    for sender in range(count):
        sender_of[count] = sender
        at = count
        reach = np.full(count, np.inf)
        came_from = np.zeros(count, dtype=np.int64)
        seen = np.zeros(count + 1, dtype=bool)
        while sender_of[at] >= 0:
            seen[at] = True
            row = sender_of[at]
            new = costs[row] - out[row] - into[:-1]
            nearer = ~seen[:-1] & (new < reach)
            reach[nearer], came_from[nearer] = new[nearer], at
            following = int(np.where(seen[:-1], np.inf, reach).argmin())
            rise = reach[following]
            out[sender_of[seen]] += rise
            into[seen] -= rise
            reach[~seen[:-1]] -= rise
            at = following
        while at != count:
            before = came_from[at]
            sender_of[at] = sender_of[before]
            at = before
    return into[:-1]
