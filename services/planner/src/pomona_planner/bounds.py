"""What the layers that are left cost at least, on the nodes that are free; see ``prices``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pomona_planner.prices import Prices, best_prices, ways_back
from pomona_planner.questions import Array, Question

SLACK = 1e-9
"""Share of all weight that rounding may take."""
HAIR = 1e-12
"""Share by which a sum of many small numbers may end above its exact value."""


class Bound:
    """Of a question, for the search; see ``of``.

    Attributes: least: every plan costs at least this; infinite when none is possible.
    """

    def __init__(self, question: Question, prices: Prices) -> None:
        self.question = question
        self._prices = prices
        costs = question.costs
        self._count, self._positions = costs.before.shape
        cost = np.where(question.allowed, prices.cost, np.inf)
        self._left = (
            cost + prices.before[None, :, None] - prices.before[None, None, :] - prices.stage
        )
        self._obliged = np.isin(np.arange(self._count), list(question.required))
        # Of a node, by the position before which all is still to be covered.
        self._worth = self._of_use(np.minimum.accumulate(self._left.min(axis=1), axis=1))
        worth = self._worth[np.isfinite(self._worth)]
        self._hair = HAIR * float(np.abs(np.diff(prices.before)).sum() + np.abs(worth).sum())
        self._back = ways_back(costs.back, prices.into)
        self._capacity = _Capacity(question)
        self._exact = question.fewest == question.most
        self._rows = np.full(1 << self._count, -1)
        self._table = np.empty((256, self._positions))
        self._known = 0
        whole = np.ones((1, self._count), dtype=bool)
        self.least = float(self._of_masks(whole, 0)[0, -1]) - self._hair

    def of(self, masks: Array, fronts: Array, tails: Array, positions: Array, level: int) -> Array:
        """For each part of a plan, seconds of all that is left; infinite when it fits nowhere.

        Args:
            masks: nodes that are used. All have ``level`` of them.
        """
        rows = self._rows[masks]
        if (rows < 0).any():
            self._take_in(np.unique(masks[rows < 0]), level)
            rows = self._rows[masks]
        found = self._table.ravel()[rows * self._positions + positions]
        return found + (self._prices.into[fronts] + self._back[tails] - self._hair)

    def _take_in(self, masks: Array, level: int) -> None:
        free = (masks[:, None] >> np.arange(self._count)) & 1 == 0
        known = self._known + len(masks)
        if known > len(self._table):
            larger = np.empty((max(known, 2 * len(self._table)), self._positions))
            larger[: self._known] = self._table[: self._known]
            self._table = larger
        self._table[self._known : known] = self._of_masks(free, level)
        self._rows[masks] = np.arange(self._known, known)
        self._known = known

    def worth_trying(self, limit: float) -> Array:
        """(N, P, P) the ranges that may be part of a plan which costs less than ``limit``."""
        usual = self._worth[:, -1]
        with np.errstate(invalid="ignore"):
            more = self._left - np.where(np.isfinite(usual), usual, 0.0)[:, None, None]
        return self.question.allowed & (self.least + more < limit)

    def among(self, allowed: Array) -> Bound:
        """The same when only some ranges are allowed."""
        return Bound(replace(self.question, allowed=allowed), self._prices)

    def _of_use(self, worth: Array) -> Array:
        """A node that need not be used is left alone rather than used at a loss."""
        return np.where(self._obliged[:, None], worth, np.minimum(worth, 0.0))

    def _of_masks(self, free: Array, level: int) -> Array:
        """(M, P) for sets of free nodes."""
        stages_left = self.question.fewest - level
        useless = np.isinf(self._worth)
        made = free.astype(float) @ np.where(useless, 0.0, self._worth)
        made += self._prices.before + self._prices.stage * stages_left
        if useless.any():
            made[free.astype(float) @ useless > 0] = np.inf
        if self._exact and stages_left <= 0:
            made[:] = np.inf
        made[self._capacity.is_short(free, self.question.most - level)] = np.inf
        return made


def least_of_all(question: Question) -> float:
    """What every plan costs at least; no more than is known once that is above ``below``."""
    return Bound(question, best_prices(question)).least


class _Capacity:
    """Whether free nodes can hold all layers before a position, each as many as it ever can."""

    def __init__(self, question: Question) -> None:
        times = np.diff(question.costs.before, axis=1)
        weights = np.maximum(times.mean(axis=0), 1e-15)
        self._before = np.concatenate(([0.0], np.cumsum(weights)))
        held = self._before[None, :] - self._before[:, None]
        self._room = np.where(question.allowed, held, 0.0).max(axis=(1, 2))

    def is_short(self, free: Array, stages: int) -> Array:
        """(M, P). Args: free: (M, N); stages: at most so many."""
        room = np.where(free, self._room, 0.0)
        if stages < room.shape[1]:
            room = -np.sort(-room, axis=1)[:, : max(stages, 0)]
        return self._before > room.sum(axis=1)[:, None] + SLACK * self._before[-1]
