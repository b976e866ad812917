"""What the layers that are left cost at least, on the nodes that are free; see ``prices``."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array
from pomona_planner.solver.lagrangian import HAIR, Prices, best_prices
from pomona_planner.solver.node_sets import FreeSums, members
from pomona_planner.solver.query import SolverQuery

SLACK = 1e-9
"""Share of all weight that rounding may take."""


class Bound:
    """Of a question, for the search; see ``of``.

    Attributes: least: every plan costs at least this; infinite when none is possible.
    """

    def __init__(self, question: SolverQuery, prices: Prices) -> None:
        self.question = question
        self._prices = prices
        costs = question.costs
        links = prices.out + prices.into - prices.stage
        held = costs.before - prices.before
        left = (held + (costs.fixed + links)[:, None])[:, None, :] - held[:, :, None]
        tail = costs.last + prices.back - prices.out
        left[:, :, -1] += tail[:, None]
        # A whole model on one node needs no links.
        left[:, 0, -1] = costs.stage[:, 0, -1] - prices.before[-1] - prices.stage
        self._left = np.where(question.allowed, left, np.inf)
        # Of a node, by the position before which all is still to be covered.
        worth = np.minimum.accumulate(self._left.min(axis=1), axis=1)
        # A node that need not be used is left alone rather than used at a loss.
        obliged = np.isin(np.arange(len(worth)), list(question.required))
        self._worth = np.where(obliged[:, None], worth, np.minimum(worth, 0.0))
        finite = self._worth[np.isfinite(self._worth)]
        self._hair = HAIR * float(np.abs(np.diff(prices.before)).sum() + np.abs(finite).sum())
        self._capacity = _Capacity(question)
        self._sums = FreeSums(self._worth)
        none, last = np.zeros(1, dtype=np.int64), np.array([len(prices.before) - 1])
        self.least = float(self._left_of(none, 0).at(none, last)[0]) - self._hair

    def of(self, masks: Array, fronts: Array, tails: Array, level: int) -> Left:
        """What is left before parts of plans.

        Args:
            masks: nodes that are used. All have ``level`` of them.
        """
        left = self._left_of(masks, level)
        left.more += self._prices.into[fronts] + self._prices.back[tails] - self._hair
        return left

    def _left_of(self, masks: Array, level: int) -> Left:
        stages = self.question.fewest - level
        more = np.full(len(masks), self._prices.stage * stages)
        if stages <= 0 and self.question.fewest == self.question.most:
            more[:] = np.inf
        farthest = self._capacity.farthest(masks, level)
        return Left(self._sums, self._sums.rows(masks), self._prices.before, more, farthest)

    def worth_trying(self, limit: float) -> Array:
        """(N, P, P) the ranges that may be part of a plan which costs less than ``limit``."""
        usual = self._worth[:, -1]
        with np.errstate(invalid="ignore"):
            more = self._left - np.where(np.isfinite(usual), usual, 0.0)[:, None, None]
        return self.least + more < limit

    def among(self, allowed: Array) -> Bound:
        """The same when only some ranges are allowed."""
        return Bound(replace(self.question, allowed=allowed), self._prices)


def can_hold(question: SolverQuery) -> bool:
    """False when the nodes are too few for all layers, each with as many as it ever can hold."""
    last = question.costs.before.shape[1] - 1
    return bool(_Capacity(question).farthest(np.zeros(1, dtype=np.int64), 0)[0] == last)


def least_of_all(question: SolverQuery) -> float:
    """What every plan costs at least; no more than is known once that is above ``below``."""
    return best_prices(question).least if can_hold(question) else float("inf")


@dataclass(slots=True, eq=False)
class Left:
    """What is left before M parts of plans.

    Attributes:
        sums, rows: of what each part's free nodes are worth.
        before: (P,) prices.
        more: (M,) seconds of each part's links, and of the stages that it lacks.
        farthest: (M,) position before which its free nodes can hold all.
    """

    sums: FreeSums
    rows: tuple[Array, Array]
    before: Array
    more: Array
    farthest: Array

    def at(self, which: Array, positions: Array) -> Array:
        """Seconds, for parts that begin at these positions; infinite when it fits nowhere.

        Args: which: numbers of the parts.
        """
        found = self.sums.at(self.rows, which, positions)
        found += self.before[positions]
        found += self.more[which]
        found[positions > self.farthest[which]] = np.inf
        return found


class _Capacity:
    """How far the free nodes can hold all layers, each as many as it ever can."""

    def __init__(self, question: SolverQuery) -> None:
        times = np.diff(question.costs.before, axis=1)
        before = np.concatenate(([0.0], np.cumsum(np.maximum(times.mean(axis=0), 1e-15))))
        held = before[None, :] - before[:, None]
        self._room = np.where(question.allowed, held, 0.0).max(axis=(1, 2))
        self._sums = FreeSums(self._room[:, None])
        self._edges = before - SLACK * before[-1]
        self._most = question.most

    def farthest(self, masks: Array, level: int) -> Array:
        """(M,) position before which they can hold all. Args: level: nodes of each mask."""
        count = len(self._room)
        if self._most >= count:
            every = np.arange(len(masks))
            room = self._sums.at(self._sums.rows(masks), every, np.zeros_like(every))
        else:
            each = np.sort(np.where(members(masks, count), 0.0, self._room), axis=1)
            room = each[:, count - max(self._most - level, 0) :].sum(axis=1)
        return np.searchsorted(self._edges, room, side="right") - 1
