"""The cheapest ordered stages: exact, over nodes, their order and the cuts at once.

A plan is built from the tail to the head. A *label* is a part of one: the nodes it uses
(``mask``), the node at its front, its tail, the position where it begins, and what it
costs. Labels that agree in all but the cost have the same future, so the cheapest stands
for them all (dynamic programming, R. Bellman 1957; M. Held and R. Karp 1962 for the order).
A label that cannot become cheaper than the best plan known is dropped (branch and bound; the
bound is Lagrange's, see ``prices``). Quick searches, which keep the most promising labels only,
find good plans first; by such a plan links are priced anew, and ranges that are part of no
better one are left out of what follows.

Nodes that are interchangeable are taken in their given order; nodes whose links are equal
count as one front. So sixteen equal nodes are as quick as sixteen different ones. All is
numpy over arrays of labels.
"""

from __future__ import annotations

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array
from pomona_planner.solver.labels import Labels, Ranges, WaysOn, concatenated
from pomona_planner.solver.lagrangian import best_prices
from pomona_planner.solver.lower_bound import Bound, can_hold
from pomona_planner.solver.node_sets import members
from pomona_planner.solver.query import MAX_NODES, TIE, Answer, Found, SolverQuery
from pomona_planner.solver.symmetry import interchangeable_nodes, link_classes

MOST_LABELS = 4_000_000
"""Labels looked at before the search gives up its proof and only goes on with the best."""
BEAM = 128
"""Labels kept at each level of the first quick search."""
WIDE_BEAM = 1024
"""The same in the second, and once the exact search has given up its proof."""


def solve(question: SolverQuery, most_labels: int = MOST_LABELS, beam: int = BEAM) -> Answer:
    """The cheapest plan.

    Args:
        most_labels: looked at before the proof is given up.
        beam: labels kept at each level of the quick search before the exact one.
    """
    if question.costs.fixed.shape[0] > MAX_NODES:
        raise ValueError(f"at most {MAX_NODES} nodes can be planned for at once")
    prices = best_prices(question) if can_hold(question) else None
    if prices is None or prices.least >= question.below * (1 - TIE):
        return Answer(None, float("inf"), 0)
    bound = Bound(question, prices)
    found: Found | None = None
    search = _Search(bound, question.below)
    looked_at, least = 0, search.least
    for width in (beam, WIDE_BEAM, None):
        limit = found.cost if found is not None else question.below
        better = search.run(limit, width, most_labels - looked_at)
        found = better or found
        looked_at += search.labels
        least = max(least, search.left_out)
        settled = found is not None and question.any_will_do
        if search.left_out == float("inf") or settled or looked_at >= most_labels:
            break
        if better is not None:
            # Now the links can be priced for the nodes of a good plan.
            bound = Bound(question, best_prices(question, better.nodes))
            search = _Search(bound, better.cost)
    return Answer(found and search.in_order(found), least, looked_at)


class _Search:
    """Among the ranges that may be part of a plan which costs less than ``below``.

    Attributes:
    least: no plan costs less than this.
    left_out: the least that a label which the last run left out could have cost.
    labels: that the last run looked at.
    """

    def __init__(self, bound: Bound, below: float) -> None:
        self.left_out = float("inf")
        self.labels = 0
        self._bound = bound.among(bound.worth_trying(below))
        self.least = self._bound.least
        question = self._question = self._bound.question
        costs, allowed = question.costs, question.allowed
        self._count, self._positions = costs.before.shape
        second = question.second.stage if question.second else None
        self._ranges = Ranges(allowed, costs.stage, second)
        self._twin = interchangeable_nodes(question)
        self._follows = np.array([twin is not None for twin in self._twin])
        self._before = np.array([twin or 0 for twin in self._twin])
        self._class = link_classes(question)
        self._required = sum(1 << node for node in question.required)

    def run(self, below: float, beam: int | None, most_labels: int) -> Found | None:
        """The cheapest plan below a cost.

        Level k holds the plans of k stages. Args: beam: labels kept a level; None keeps all.
        """
        question = self._question
        most = min(question.most, self._count)
        levels: list[Labels] = []
        best: tuple[int, int] | None = None
        limit = below
        self.left_out, self.labels = float("inf"), 0
        growing = self._begin(limit)
        for level in range(1, most + 1):
            labels = growing
            done = labels.position == 0
            if level < question.fewest:
                labels = labels.take(~done)
            elif done.any():
                final = np.where(done, labels.cost, np.inf)
                final[(labels.mask & self._required) != self._required] = np.inf
                at = int(final.argmin())
                if final[at] < limit * (1 - TIE):
                    best, limit = (level, at), float(final[at])
            levels.append(labels)
            if level == most or (best is not None and question.any_will_do):
                break
            rest = np.flatnonzero((labels.position > 0) & (labels.least < limit * (1 - TIE)))
            ways_on = self._ways_on(
                labels, rest if beam is None else self._best(labels, rest, beam)
            )
            if beam is None and self.labels + ways_on.count > most_labels:
                beam = WIDE_BEAM
                ways_on = self._ways_on(labels, self._best(labels, rest, beam))
            if not ways_on.count:
                break
            self.labels += ways_on.count
            growing = self._grow(labels, ways_on, level, limit)
        return self._unwind(levels, *best, limit) if best else None

    def _best(self, labels: Labels, rest: Array, beam: int) -> Array:
        """As many of ``rest`` as the beam keeps, the most promising."""
        if len(rest) <= beam:
            return rest
        order = np.argpartition(labels.least[rest], beam)
        self.left_out = min(self.left_out, float(labels.least[rest[order[beam]]]))
        return rest[order[:beam]]

    def _ways_on(self, labels: Labels, rest: Array) -> WaysOn:
        used = members(labels.mask[rest], self._count)
        free = ~used & (used[:, self._before] | ~self._follows)
        count = self._ranges.count.T[labels.position[rest]]
        at, node = np.nonzero(free & (count > 0))
        return WaysOn(rest[at], node, count[at, node])

    def in_order(self, found: Found) -> Found:
        """The same plan with interchangeable nodes in their given order, the first ones used."""
        groups: dict[int, list[int]] = {}
        for node, twin in enumerate(self._twin):
            first = node if twin is None else next(f for f, g in groups.items() if twin in g)
            groups.setdefault(first, []).append(node)
        of = {node: first for first, group in groups.items() for node in group}
        turns = {first: iter(group) for first, group in groups.items()}
        nodes = tuple(next(turns[of[node]]) for node in found.nodes)
        return Found(nodes, found.cuts, found.cost)

    def _begin(self, limit: float) -> Labels:
        """Every stage that can be the tail."""
        node = np.flatnonzero(~self._follows)
        zero = np.zeros(len(node))
        stop = np.full(len(node), self._positions - 1)
        return self._best_of(
            self._extended(
                1 << node, node, node, stop, zero, zero, np.full(len(node), -1), limit, 1
            )
        )

    def _grow(self, before: Labels, ways_on: WaysOn, level: int, limit: float) -> Labels:
        """Every stage put before the labels that go on. Args: level: how many stages they have."""
        link, second = self._question.costs.link, self._question.second
        parts: list[Labels] = []
        for parent, node in ways_on.blocks():
            front = before.front[parent]
            cost2 = before.second[parent]
            if second is not None:
                cost2 = cost2 + second.link[node, front]
            parts.append(
                self._extended(
                    before.mask[parent] | (1 << node),
                    node,
                    before.tail[parent],
                    before.position[parent],
                    before.cost[parent] + link[node, front],
                    cost2,
                    parent,
                    limit,
                    level + 1,
                )
            )
        return self._best_of(concatenated(parts))

    def _extended(
        self,
        mask: Array,
        front: Array,
        tail: Array,
        stop: Array,
        cost: Array,
        second: Array,
        parent: Array,
        limit: float,
        level: int,
    ) -> Labels:
        """Every range put at the front of parts of plans, unless no plan within the limits can
        come of it.

        Args:
            mask, front, tail, parent: of what they become.
            cost, second: without the range.
        """
        question = self._question
        which, ranges = self._ranges.of(front, stop)
        start = self._ranges.start[ranges]
        cost = cost[which] + self._ranges.cost[ranges]
        left = self._bound.of(mask, front, tail, level).at(which, start)
        done = np.flatnonzero(start == 0)
        ends = which[done]
        left[done] = 0.0
        if level > 1:
            cost[done] += question.costs.back[tail[ends], front[ends]]
        least = cost + left
        within = least < limit * (1 - TIE)
        cost2 = second[which]
        if question.second is not None:
            cost2 += self._ranges.second[ranges]
            if level > 1:
                cost2[done] += question.second.back[tail[ends], front[ends]]
            within &= cost2 <= question.second_limit * (1 + TIE)
        keep = np.flatnonzero(within)
        which = which[keep]
        return Labels(
            mask[which],
            front[which],
            tail[which],
            start[keep],
            cost[keep],
            least[keep],
            cost2[keep],
            parent[which],
        )

    def _best_of(self, labels: Labels) -> Labels:
        """Of labels with one future, those that no other beats."""
        if not len(labels):
            return labels
        classes = self._count
        key = (labels.mask * classes + self._class[labels.front]) * classes
        key = (key + self._class[labels.tail]) * self._positions + labels.position
        if self._question.second is None:
            order = np.argsort(key)
            firsts = np.flatnonzero(np.diff(key[order], prepend=-1))
            cost = labels.cost[order]
            least = np.minimum.reduceat(cost, firsts)
            solve = np.flatnonzero(cost == np.repeat(least, np.diff(firsts, append=len(key))))
            return labels.take(order[solve[np.searchsorted(solve, firsts)]])
        order = np.lexsort((labels.second, labels.cost, key))
        key = key[order]
        group = np.cumsum(np.concatenate(([0], key[1:] != key[:-1])))
        rank = np.unique(labels.second, return_inverse=True)[1][order]
        # Later groups get lower numbers, so a running minimum begins anew with each.
        lowered = rank - group * (len(key) + 1)
        least_before = np.minimum.accumulate(lowered)
        keep = np.ones(len(key), dtype=bool)
        keep[1:] = lowered[1:] < least_before[:-1]
        return labels.take(order[keep])

    def _unwind(self, levels: list[Labels], level: int, at: int, cost: float) -> Found:
        nodes: list[int] = []
        cuts: list[int] = []
        while level:
            labels = levels[level - 1]
            nodes.append(int(labels.front[at]))
            cuts.append(int(labels.position[at]))
            at = int(labels.parent[at])
            level -= 1
        return Found(tuple(nodes), (*cuts, self._positions - 1), cost)
