"""Exact search for the cheapest ordered stages, over nodes, their order and the cuts at once.

Plans are built from the tail to the head. A *label* is a partial plan: the nodes used (``mask``),
the node at its front, its tail, its start position and its cost. Of labels that differ only in
cost, the cheapest replaces the others (dynamic programming, R. Bellman 1957; M. Held and R. Karp
1962 for the order). Labels whose lower bound reaches the cost of the best known plan are dropped
(branch and bound, with the Lagrangian bound of ``lower_bound``). Beam searches find good plans
first; such a plan gives tighter link prices, and the stages that no better plan can contain are
left out of the searches that follow.

Interchangeable nodes are used in their given order only, and fronts with equal links count as
one. The search works on numpy arrays of labels.
"""

from __future__ import annotations

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array
from pomona_planner.solver.labels import Extensions, Labels, StageRanges, concatenate
from pomona_planner.solver.lagrangian import best_prices
from pomona_planner.solver.lower_bound import LowerBound, has_capacity
from pomona_planner.solver.node_sets import members
from pomona_planner.solver.query import MAX_NODES, TIE, Solution, SolverQuery, SolverResult
from pomona_planner.solver.symmetry import interchangeable_nodes, link_classes

MAX_LABELS = 4_000_000
"""Labels generated before the search gives up its proof and narrows to a beam."""
BEAM = 128
"""Labels kept per level in the first beam search."""
WIDE_BEAM = 1024
"""Labels kept per level in the second beam search, and after the proof is given up."""


def solve(query: SolverQuery, max_labels: int = MAX_LABELS, beam: int = BEAM) -> SolverResult:
    """Finds the cheapest plan of a query.

    Args:
        max_labels: labels generated before the proof is given up.
        beam: labels kept per level in the first beam search.

    Raises:
        ValueError: when there are more than ``MAX_NODES`` nodes.
    """
    count = query.costs.fixed.shape[0]
    if count > MAX_NODES:
        raise ValueError(f"{count} nodes are too many to plan for; the limit is {MAX_NODES}")
    prices = best_prices(query) if has_capacity(query) else None
    if prices is None or prices.bound >= query.cost_limit * (1 - TIE):
        return SolverResult(None, float("inf"), 0)
    solution: Solution | None = None
    search = _LabelSearch(LowerBound(query, prices), query.cost_limit)
    labels, bound = 0, search.bound
    for width in (beam, WIDE_BEAM, None):
        limit = solution.cost if solution is not None else query.cost_limit
        better = search.run(limit, width, max_labels - labels)
        solution = better or solution
        labels += search.labels
        bound = max(bound, search.dropped_bound)
        settled = solution is not None and query.stop_at_first
        if search.dropped_bound == float("inf") or settled or labels >= max_labels:
            break
        if better is not None:
            prices = best_prices(query, better.nodes)
            search = _LabelSearch(LowerBound(query, prices), better.cost)
    return SolverResult(solution and search.in_given_order(solution), bound, labels)


class _LabelSearch:
    """Search among the stages that may be part of a plan that costs less than ``cost_limit``.

    Attributes:
        bound: lower bound on the cost of every plan.
        dropped_bound: lowest bound of the labels that the last run's beam dropped.
        labels: number of labels that the last run generated.
    """

    def __init__(self, lower_bound: LowerBound, cost_limit: float) -> None:
        self.dropped_bound = float("inf")
        self.labels = 0
        self._lower_bound = lower_bound.restricted_to(lower_bound.useful_ranges(cost_limit))
        self.bound = self._lower_bound.value
        query = self._query = self._lower_bound.query
        costs, second_costs = query.costs, query.second_costs
        self._count, self._positions = costs.before.shape
        second = second_costs.stage if second_costs else None
        self._ranges = StageRanges(query.allowed, costs.stage, second)
        self._twin = interchangeable_nodes(query)
        self._has_twin = np.array([twin is not None for twin in self._twin])
        self._twin_or_zero = np.array([twin or 0 for twin in self._twin])
        self._class = link_classes(query)
        self._required = sum(1 << node for node in query.required)

    def run(self, cost_limit: float, beam: int | None, max_labels: int) -> Solution | None:
        """Finds the cheapest plan that costs less than a limit.

        Level k holds the labels of k stages.

        Args:
            beam: labels kept per level; None keeps all.
        """
        query = self._query
        levels: list[Labels] = []
        best: tuple[int, int] | None = None
        self.dropped_bound, self.labels = float("inf"), 0
        labels = self._tails(cost_limit)
        max_stages = min(query.max_stages, self._count)
        for level in range(1, max_stages + 1):
            complete = labels.position == 0
            if level < query.min_stages:
                labels = labels.take(~complete)
            elif complete.any():
                cost = np.where(complete, labels.cost, np.inf)
                cost[(labels.mask & self._required) != self._required] = np.inf
                at = int(cost.argmin())
                if cost[at] < cost_limit * (1 - TIE):
                    best, cost_limit = (level, at), float(cost[at])
            levels.append(labels)
            if level == max_stages or (best is not None and query.stop_at_first):
                break
            unfinished = np.flatnonzero(
                (labels.position > 0) & (labels.bound < cost_limit * (1 - TIE))
            )
            kept = unfinished if beam is None else self._most_promising(labels, unfinished, beam)
            extensions = self._extensions(labels, kept)
            if beam is None and self.labels + extensions.label_count > max_labels:
                beam = WIDE_BEAM
                extensions = self._extensions(
                    labels, self._most_promising(labels, unfinished, beam)
                )
            if not extensions.label_count:
                break
            self.labels += extensions.label_count
            labels = self._extend(labels, extensions, level, cost_limit)
        return self._solution(levels, *best, cost_limit) if best else None

    def _most_promising(self, labels: Labels, indices: Array, beam: int) -> Array:
        """Returns the indices of at most ``beam`` labels, those with the lowest bounds."""
        if len(indices) <= beam:
            return indices
        order = np.argpartition(labels.bound[indices], beam)
        self.dropped_bound = min(self.dropped_bound, float(labels.bound[indices[order[beam]]]))
        return indices[order[:beam]]

    def _extensions(self, labels: Labels, indices: Array) -> Extensions:
        used = members(labels.mask[indices], self._count)
        free = ~used & (used[:, self._twin_or_zero] | ~self._has_twin)
        count = self._ranges.count.T[labels.position[indices]]
        at, node = np.nonzero(free & (count > 0))
        return Extensions(indices[at], node, count[at, node])

    def in_given_order(self, solution: Solution) -> Solution:
        """Replaces interchangeable nodes so that the first ones are used, in their order."""
        groups: dict[int, list[int]] = {}
        for node, twin in enumerate(self._twin):
            first = node if twin is None else next(f for f, g in groups.items() if twin in g)
            groups.setdefault(first, []).append(node)
        group_of = {node: first for first, group in groups.items() for node in group}
        unused = {first: iter(group) for first, group in groups.items()}
        nodes = tuple(next(unused[group_of[node]]) for node in solution.nodes)
        return Solution(nodes, solution.cuts, solution.cost)

    def _tails(self, cost_limit: float) -> Labels:
        """Returns the labels of the first level: every stage that can be the tail."""
        node = np.flatnonzero(~self._has_twin)
        zero = np.zeros(len(node))
        stop = np.full(len(node), self._positions - 1)
        parent = np.full(len(node), -1)
        return self._undominated(
            self._with_stage(1 << node, node, node, stop, zero, zero, parent, cost_limit, 1)
        )

    def _extend(
        self, before: Labels, extensions: Extensions, level: int, cost_limit: float
    ) -> Labels:
        """Puts every possible stage before the labels. Args: level: their number of stages."""
        link, second_costs = self._query.costs.link, self._query.second_costs
        parts: list[Labels] = []
        for parent, node in extensions.blocks():
            front = before.front[parent]
            second_cost = before.second_cost[parent]
            if second_costs is not None:
                second_cost = second_cost + second_costs.link[node, front]
            parts.append(
                self._with_stage(
                    before.mask[parent] | (1 << node),
                    node,
                    before.tail[parent],
                    before.position[parent],
                    before.cost[parent] + link[node, front],
                    second_cost,
                    parent,
                    cost_limit,
                    level + 1,
                )
            )
        return self._undominated(concatenate(parts))

    def _with_stage(
        self,
        mask: Array,
        front: Array,
        tail: Array,
        stop: Array,
        cost: Array,
        second_cost: Array,
        parent: Array,
        cost_limit: float,
        level: int,
    ) -> Labels:
        """Returns a label for every stage on ``front`` that ends at ``stop``.

        Labels that no plan within the limits can contain are left out.

        Args:
            mask, front, tail, parent: columns of the new labels.
            cost, second_cost: costs without the new stage.
            level: number of stages of the new labels.
        """
        query = self._query
        which, ranges = self._ranges.ending_at(front, stop)
        start = self._ranges.start[ranges]
        cost = cost[which] + self._ranges.cost[ranges]
        remaining = self._lower_bound.remaining(mask, front, tail, level).at(which, start)
        complete = np.flatnonzero(start == 0)
        ends = which[complete]
        remaining[complete] = 0.0
        if level > 1:
            cost[complete] += query.costs.back[tail[ends], front[ends]]
        bound = cost + remaining
        possible = bound < cost_limit * (1 - TIE)
        second_cost = second_cost[which]
        if query.second_costs is not None:
            second_cost += self._ranges.second_cost[ranges]
            if level > 1:
                second_cost[complete] += query.second_costs.back[tail[ends], front[ends]]
            possible &= second_cost <= query.second_limit * (1 + TIE)
        keep = np.flatnonzero(possible)
        which = which[keep]
        return Labels(
            mask[which],
            front[which],
            tail[which],
            start[keep],
            cost[keep],
            bound[keep],
            second_cost[keep],
            parent[which],
        )

    def _undominated(self, labels: Labels) -> Labels:
        """Returns the labels that no other one with the same completions beats in all costs."""
        if not len(labels):
            return labels
        classes = self._count
        key = (labels.mask * classes + self._class[labels.front]) * classes
        key = (key + self._class[labels.tail]) * self._positions + labels.position
        if self._query.second_costs is None:
            order = np.argsort(key)
            firsts = np.flatnonzero(np.diff(key[order], prepend=-1))
            cost = labels.cost[order]
            lowest = np.minimum.reduceat(cost, firsts)
            cheapest = np.flatnonzero(cost == np.repeat(lowest, np.diff(firsts, append=len(key))))
            return labels.take(order[cheapest[np.searchsorted(cheapest, firsts)]])
        order = np.lexsort((labels.second_cost, labels.cost, key))
        key = key[order]
        group = np.cumsum(np.concatenate(([0], key[1:] != key[:-1])))
        rank = np.unique(labels.second_cost, return_inverse=True)[1][order]
        # Later groups get lower numbers, so one running minimum serves all groups.
        lowered = rank - group * (len(key) + 1)
        lowest_before = np.minimum.accumulate(lowered)
        keep = np.ones(len(key), dtype=bool)
        keep[1:] = lowered[1:] < lowest_before[:-1]
        return labels.take(order[keep])

    def _solution(self, levels: list[Labels], level: int, at: int, cost: float) -> Solution:
        """Follows a complete label back through its parents."""
        nodes: list[int] = []
        cuts: list[int] = []
        while level:
            labels = levels[level - 1]
            nodes.append(int(labels.front[at]))
            cuts.append(int(labels.position[at]))
            at = int(labels.parent[at])
            level -= 1
        return Solution(tuple(nodes), (*cuts, self._positions - 1), cost)
