"""Lagrangian prices of layers, stages and links, from which lower bounds follow.

A plan is a choice of ranges, one for each node used, that cover every layer once: a set
partitioning problem. With a price for each layer, the gain of a range is the prices of its layers
less its cost. Every plan costs at least the price of all layers less the highest gains of all
nodes (Lagrangian relaxation, A. Geoffrion 1974). Layers of one kind have one price; the first and
the last layer have their own. The prices are therefore few, and the ellipsoid method finds the
best ones (N. Shor 1977; deep cuts as in the lectures of S. Boyd and C. Barratt).

The price of a link has a part for the sender and a part for the receiver, as in the dual of the
assignment problem (H. Kuhn 1955), because a plan is a path through the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array
from pomona_planner.solver.query import SolverQuery
from pomona_planner.solver.symmetry import link_classes

STEPS_PER_PRICE = 60
"""Maximum steps of the ellipsoid method for each price."""
PRECISION = 1e-6
"""Relative precision of the bound at which the ellipsoid method stops."""
ROUNDING = 1e-12
"""Relative amount by which rounding may raise a sum of many small numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Prices in seconds.

    Attributes:
        before: (P,) of all layers before a position.
        stage: of each stage, when the number of stages is fixed; otherwise 0.
        sender, receiver: (N,) with ``sender[a] + receiver[b] <= link[a, b]`` for all a and b.
        back: (N,) lowest cost from each node as the tail back to a head, less the head's
            receiver price.
        bound: lower bound on the cost of every plan.
    """

    before: Array
    stage: float
    sender: Array
    receiver: Array
    back: Array
    bound: float


def best_prices(query: SolverQuery, used: Sequence[int] = ()) -> Prices:
    """Finds the prices with the highest lower bound, or some whose bound reaches the cost limit.

    Args:
        used: nodes of a good plan, if one is known; it makes the prices of their links tight.
    """
    costs, kinds = query.costs, query.costs.range_kinds
    sender, receiver = _link_prices(query, used)
    same_node = np.where(np.eye(len(sender), dtype=bool), np.inf, 0.0)
    back = (costs.back - receiver[None, :] + same_node).min(axis=1)
    cheapest = kinds.cheapest(np.where(query.allowed, costs.stage, np.inf))
    cheapest[:, ~kinds.has_last] += (sender + receiver)[:, None]
    cheapest[:, kinds.has_last & ~kinds.has_first] += (receiver + back)[:, None]
    layer, stage, bound = _maximize_bound(query, cheapest, kinds.layer_counts, kinds.layers)
    before = np.concatenate(([0.0], np.cumsum(layer[kinds.layers])))
    return Prices(before, stage, sender, receiver, back, bound)


def _maximize_bound(
    query: SolverQuery, cheapest: Array, layer_counts: Array, layer_kinds: Array
) -> tuple[Array, float, float]:
    """Runs the ellipsoid method on the prices.

    Args:
        cheapest: (N, R) cost of the cheapest range of each kind.
        layer_counts: (R, K) layers of each kind in a kind of range.
        layer_kinds: (P - 1,) kind of each layer.

    Returns: (price of each kind of layer, price of a stage, lower bound).
    """
    kinds = layer_counts.shape[1]
    exact = query.min_stages == query.max_stages
    seconds = np.diff(query.costs.before, axis=1).mean(axis=0)
    total = np.bincount(layer_kinds, minlength=kinds).astype(float)
    start = np.bincount(layer_kinds, seconds, kinds) / total
    if exact:
        start = np.append(start, 0.0)
        layer_counts = np.column_stack((layer_counts, np.ones(len(layer_counts))))
        total = np.append(total, float(query.min_stages))
    size = len(start)
    finite = cheapest[np.isfinite(cheapest)]
    if size < 2 or not len(finite):
        return start[:kinds], 0.0, -np.inf
    nodes = np.arange(len(cheapest))
    required = np.zeros(len(cheapest), dtype=bool)
    required[list(query.required)] = True
    radius = 4.0 * float(np.diff(query.costs.before, axis=1).max()) + float(finite.min())
    shape = np.eye(size) * radius**2
    center = best = start
    highest, rounding = -np.inf, 0.0
    for _ in range(STEPS_PER_PRICE * size):
        reduced = cheapest - layer_counts @ center
        at = reduced.argmin(axis=1)
        node_cost = reduced[nodes, at]
        use = (node_cost < 0) | (required & np.isfinite(node_cost))
        value = float(total @ center + node_cost[use].sum())
        if value > highest:
            highest, best = value, center
            rounding = ROUNDING * float(total @ np.abs(center) + np.abs(node_cost[use]).sum())
        if highest - rounding >= query.cost_limit:
            break
        slope = total - layer_counts[at[use]].sum(axis=0)
        length = float(np.sqrt(max(slope @ shape @ slope, 0.0)))
        depth = (highest - value) / length if length > 0 else 1.0
        if length <= PRECISION * abs(highest) or depth >= 1:
            break
        step = shape @ slope / length
        center = center + (1 + size * depth) / (size + 1) * step
        outer = 2 * (1 + size * depth) / ((size + 1) * (1 + depth)) * np.outer(step, step)
        shape = size**2 / (size**2 - 1) * (1 - depth**2) * (shape - outer)
    return best[:kinds], float(best[kinds]) if exact else 0.0, highest - rounding


def _link_prices(query: SolverQuery, used: Sequence[int]) -> tuple[Array, Array]:
    """Returns the prices of senders and receivers; nodes with equal links have equal prices."""
    link = query.costs.link
    count = len(link)
    if count < 2:
        return np.zeros(count), np.zeros(count)
    finite = link[np.isfinite(link)]
    unusable = 2.0 * float(finite.max(initial=0.0)) + 1.0
    between = np.where(np.eye(count, dtype=bool), np.inf, np.minimum(link, unusable))
    receiver = np.zeros(count)
    if len(used) > 1:
        chosen = list(used)
        among = np.minimum(between[np.ix_(chosen, chosen)], unusable)
        receiver[chosen] = _assignment_prices(among)
        sender = (between[:, chosen] - receiver[chosen]).min(axis=1)
    else:
        sender = between.min(axis=1)
    receiver = (between - sender[:, None]).min(axis=0)
    classes = link_classes(query)
    sizes = np.maximum(np.bincount(classes, minlength=count), 1)
    return (
        (np.bincount(classes, sender, count) / sizes)[classes],
        (np.bincount(classes, receiver, count) / sizes)[classes],
    )


def _assignment_prices(costs: Array) -> Array:
    """Returns (N,): prices of the receivers in the cheapest assignment of N senders to them.

    Uses shortest augmenting paths: each sender in turn is assigned, those before it are
    reassigned along the cheapest path, and prices rise until no other assignment is cheaper.
    """
    count = len(costs)
    sender_price, receiver_price = np.zeros(count), np.zeros(count + 1)
    sender_of = np.full(count + 1, -1)
    for sender in range(count):
        sender_of[count] = sender
        at = count
        distance = np.full(count, np.inf)
        previous = np.zeros(count, dtype=np.int64)
        seen = np.zeros(count + 1, dtype=bool)
        while sender_of[at] >= 0:
            seen[at] = True
            row = sender_of[at]
            reduced = costs[row] - sender_price[row] - receiver_price[:-1]
            nearer = ~seen[:-1] & (reduced < distance)
            distance[nearer], previous[nearer] = reduced[nearer], at
            nearest = int(np.where(seen[:-1], np.inf, distance).argmin())
            rise = distance[nearest]
            sender_price[sender_of[seen]] += rise
            receiver_price[seen] -= rise
            distance[~seen[:-1]] -= rise
            at = nearest
        while at != count:
            before = previous[at]
            sender_of[at] = sender_of[before]
            at = before
    return receiver_price[:-1]
