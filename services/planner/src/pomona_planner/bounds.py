"""What the layers that are left cost at least, on the nodes that are free.

Each layer has a weight, its mean time over the nodes. A node does a unit of weight in
``rate`` at the quickest, holds at most ``room`` of it, and a stage on it costs at least
``entry`` besides. The bound is Lagrange's (as M. Held and R. Karp 1971 used it): for any
price of a unit of weight, the price of all that is left, and what the nodes then gain or
lose, is no more than the cheapest way to cover it. The best of many prices is taken.
"""

from __future__ import annotations

import numpy as np

from pomona_planner.questions import Array, Question

MOST_PRICES = 64
SLACK = 1e-9
"""Share of all weight that rounding may take."""
HAIR = 1e-12
"""Share by which a sum of many small numbers may end above its exact value."""


class Bound:
    """Of a question, for the search; see ``of``."""

    def __init__(self, question: Question) -> None:
        inner = question.allowed.copy()
        inner[:, :, -1] = False
        self._back = _least_of_rows(question.costs.back)
        # A node from which no link leads on can only be the tail.
        self._nodes = _Nodes(question, inner, _least_of_rows(question.costs.link))
        self._count, self._positions = question.costs.before.shape
        self._stages = question.stages
        self._rows = np.full(1 << self._count, -1, dtype=np.int32)
        self._table = np.zeros((0, self._positions))

    def of(self, masks: Array, tails: Array, positions: Array, level: int) -> Array:
        """For each part of a plan, seconds of all that is left; infinite when it fits nowhere.

        Args:
            masks: nodes that are used. All have ``level`` of them.
        """
        new = np.unique(masks[self._rows[masks] < 0])
        if len(new):
            self._rows[new] = len(self._table) + np.arange(len(new))
            free = (new[:, None] >> np.arange(self._count)) & 1 == 0
            more = None if self._stages is None else self._stages - level
            made = self._nodes.least(free, self._nodes.before, more)
            made[:, 0] = 0.0
            self._table = np.concatenate((self._table, made))
        return self._table[self._rows[masks], positions] + self._back[tails]


def least_of_all(question: Question) -> float:
    """What every plan costs at least; infinite when none is possible."""
    costs, stages = question.costs, question.stages
    link = np.zeros(len(costs.fixed))
    ends = 0.0
    if stages is not None and stages > 1:
        link = _least_of_rows(costs.link)
        link[np.isinf(link)] = 0.0
        # The tail has no link to a next stage, but a way back.
        ends = float(_least_of_rows(costs.back).min() - link.max())
    nodes = _Nodes(question, question.allowed, link)
    free = np.ones((1, len(link)), dtype=bool)
    cost = nodes.least(free, nodes.before[-1:], stages)[0, 0]
    return float(cost + ends + costs.last.min())


def _least_of_rows(links: Array) -> Array:
    """The quickest link from each node to another one."""
    return (links + np.where(np.eye(len(links), dtype=bool), np.inf, 0.0)).min(axis=1)


class _Nodes:
    """Args: ranges: (N, P, P) that each node may hold; link: (N,) paid with each stage."""

    def __init__(self, question: Question, ranges: Array, link: Array) -> None:
        costs = question.costs
        times = np.diff(costs.before, axis=1)
        weights = np.maximum(times.mean(axis=0), 1e-15)
        self.before = np.concatenate(([0.0], np.cumsum(weights)))
        held = self.before[None, :] - self.before[:, None]
        self._rate = (times / weights).min(axis=1)
        self._room = np.where(ranges, held, 0.0).max(axis=(1, 2))
        self._room[np.isinf(link)] = 0.0
        self._entry = np.where(self._room > 0, costs.fixed + link, np.inf)
        self._prices = self._worth_looking_at()

    def _worth_looking_at(self) -> Array:
        """Prices at which a node begins to gain, pays its entry, or overtakes another."""
        used = self._room > 0
        rate, room, entry = self._rate[used], self._room[used], self._entry[used]
        if not len(rate):
            return np.zeros(1)
        pays = rate + entry / room
        lost = entry + rate * room
        apart = room[:, None] - room[None, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            overtakes = (lost[:, None] - lost[None, :]) / apart
        found = np.concatenate((rate, pays, overtakes[np.isfinite(overtakes)]))
        found = np.unique(found[(found >= rate.min()) & (found <= 2 * pays.max())])
        if len(found) > MOST_PRICES:
            found = found[np.linspace(0, len(found) - 1, MOST_PRICES).astype(int)]
        return found

    def least(self, free: Array, weights: Array, stages: int | None) -> Array:
        """(M, W) least cost of covering each weight by so many of the free nodes.

        Args:
            free: (M, N).
            weights: (W,).
            stages: exactly so many nodes; None for any number.
        """
        prices = self._prices
        gains = self._entry - np.maximum(prices[:, None] - self._rate, 0.0) * self._room
        offered = np.where(free[:, None, :], gains, np.inf)
        room = np.where(free, self._room, 0.0)
        if stages is None:
            kept = np.minimum(offered, 0.0).sum(axis=2)
            most = room.sum(axis=1)
        elif stages <= 0:
            return np.full((len(free), len(weights)), np.inf)
        else:
            stages = min(stages, free.shape[1])
            kept = np.partition(offered, stages - 1, axis=2)[:, :, :stages].sum(axis=2)
            most = np.partition(-room, stages - 1, axis=1)[:, :stages].sum(axis=1) * -1
        found = np.full((len(free), len(weights)), -np.inf)
        for index, price in enumerate(prices):
            np.maximum(found, kept[:, index, None] + price * weights, out=found)
        found[weights > most[:, None] + SLACK * self.before[-1]] = np.inf
        return np.maximum(found, 0.0) * (1 - HAIR)
