"""Lower bound on the cost of completing a partial plan; see ``lagrangian`` for its theory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array
from pomona_planner.solver.lagrangian import ROUNDING, Prices, best_prices
from pomona_planner.solver.node_sets import FreeSums, members
from pomona_planner.solver.query import SolverQuery

CAPACITY_ROUNDING = 1e-9
"""Share of the time of all layers that rounding may take."""


class LowerBound:
    """Lower bounds for the partial plans of a query at given prices.

    Attributes:
        query: the query.
        value: lower bound on the cost of every plan; infinite when no plan is possible.
    """

    def __init__(self, query: SolverQuery, prices: Prices) -> None:
        self.query = query
        self._prices = prices
        costs = query.costs
        links = prices.sender + prices.receiver - prices.stage
        priced = costs.before - prices.before
        reduced = (priced + (costs.fixed + links)[:, None])[:, None, :] - priced[:, :, None]
        tail = costs.last + prices.back - prices.sender
        reduced[:, :, -1] += tail[:, None]
        # A whole model on one node needs no links.
        reduced[:, 0, -1] = costs.stage[:, 0, -1] - prices.before[-1] - prices.stage
        self._reduced = np.where(query.allowed, reduced, np.inf)
        # (N, P) lowest reduced cost of a node when the layers before a position are left.
        lowest = np.minimum.accumulate(self._reduced.min(axis=1), axis=1)
        # A node that is not required stays unused rather than raise the cost.
        required = np.isin(np.arange(len(lowest)), list(query.required))
        self._lowest = np.where(required[:, None], lowest, np.minimum(lowest, 0.0))
        finite = self._lowest[np.isfinite(self._lowest)]
        magnitude = np.abs(np.diff(prices.before)).sum() + np.abs(finite).sum()
        self._rounding = ROUNDING * float(magnitude)
        self._capacity = _Capacity(query)
        self._sums = FreeSums(self._lowest)
        no_nodes, end = np.zeros(1, dtype=np.int64), np.array([len(prices.before) - 1])
        self.value = float(self._remaining(no_nodes, 0).at(no_nodes, end)[0]) - self._rounding

    def remaining(self, masks: Array, fronts: Array, tails: Array, level: int) -> RemainingCost:
        """Bounds the remaining cost of partial plans.

        Args:
            masks: nodes used, as bit masks.
            fronts, tails: nodes of the foremost stage and of the tail.
            level: number of stages of each partial plan.
        """
        result = self._remaining(masks, level)
        result.extra += self._prices.receiver[fronts] + self._prices.back[tails] - self._rounding
        return result

    def _remaining(self, masks: Array, level: int) -> RemainingCost:
        stages = self.query.min_stages - level
        extra = np.full(len(masks), self._prices.stage * stages)
        if stages <= 0 and self.query.min_stages == self.query.max_stages:
            extra[:] = np.inf
        farthest = self._capacity.farthest(masks, level)
        return RemainingCost(
            self._sums, self._sums.rows(masks), self._prices.before, extra, farthest
        )

    def useful_ranges(self, limit: float) -> Array:
        """Returns (N, P, P): whether a stage may be part of a plan that costs less than a limit."""
        lowest = self._lowest[:, -1]
        with np.errstate(invalid="ignore"):
            extra = self._reduced - np.where(np.isfinite(lowest), lowest, 0.0)[:, None, None]
        return self.value + extra < limit

    def restricted_to(self, allowed: Array) -> LowerBound:
        """Returns the bound of the same query when only these stages are allowed."""
        return LowerBound(replace(self.query, allowed=allowed), self._prices)


def has_capacity(query: SolverQuery) -> bool:
    """Returns False when the nodes cannot hold all layers even with the largest stage each."""
    end = query.costs.before.shape[1] - 1
    return bool(_Capacity(query).farthest(np.zeros(1, dtype=np.int64), 0)[0] == end)


def bound_all_plans(query: SolverQuery) -> float:
    """Computes a lower bound on the cost of every plan; infinite when there is no plan.

    Stops early once the bound reaches the query's cost limit.
    """
    return best_prices(query).bound if has_capacity(query) else float("inf")


@dataclass(slots=True, eq=False)
class RemainingCost:
    """Lower bounds on what M partial plans still cost, by the position where they start.

    Attributes:
        sums, rows: lowest reduced costs, summed over the free nodes of each partial plan.
        before: (P,) price of all layers before a position.
        extra: (M,) cost of links and of missing stages.
        farthest: (M,) position before which the free nodes can hold all layers.
    """

    sums: FreeSums
    rows: tuple[Array, Array]
    before: Array
    extra: Array
    farthest: Array

    def at(self, which: Array, positions: Array) -> Array:
        """Returns the bounds in seconds; infinite when the free nodes cannot hold the rest.

        Args:
            which: indices of the partial plans.
            positions: a start position for each.
        """
        bound = self.sums.at(self.rows, which, positions)
        bound += self.before[positions]
        bound += self.extra[which]
        bound[positions > self.farthest[which]] = np.inf
        return bound


class _Capacity:
    """Number of layers that free nodes can hold, each with its largest stage.

    Layers are weighted by their mean time over all nodes.
    """

    def __init__(self, query: SolverQuery) -> None:
        seconds = np.diff(query.costs.before, axis=1)
        before = np.concatenate(([0.0], np.cumsum(np.maximum(seconds.mean(axis=0), 1e-15))))
        weights = before[None, :] - before[:, None]
        self._room = np.where(query.allowed, weights, 0.0).max(axis=(1, 2))
        self._sums = FreeSums(self._room[:, None])
        self._edges = before - CAPACITY_ROUNDING * before[-1]
        self._max_stages = query.max_stages

    def farthest(self, masks: Array, level: int) -> Array:
        """Returns (M,): the position before which free nodes can hold all layers.

        Args:
            masks: used nodes, as bit masks of ``level`` nodes each.
        """
        count = len(self._room)
        if self._max_stages >= count:
            every = np.arange(len(masks))
            room = self._sums.at(self._sums.rows(masks), every, np.zeros_like(every))
        else:
            free = np.sort(np.where(members(masks, count), 0.0, self._room), axis=1)
            room = free[:, count - max(self._max_stages - level, 0) :].sum(axis=1)
        return np.searchsorted(self._edges, room, side="right") - 1
