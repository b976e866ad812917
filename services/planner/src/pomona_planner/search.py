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

from pomona_planner.bounds import Bound
from pomona_planner.labels import Labels, Starts, concatenated
from pomona_planner.prices import best_prices
from pomona_planner.questions import MAX_NODES, TIE, Answer, Array, Found, Question
from pomona_planner.symmetry import link_classes, twins

MOST_LABELS = 2_500_000
"""Labels looked at before the search gives up its proof and only goes on with the best."""
BEAM = 128
"""Labels kept at each level of the first quick search."""
WIDE_BEAM = 1024
"""The same in the second, and once the exact search has given up its proof."""


def cheapest(question: Question, most_labels: int = MOST_LABELS, beam: int = BEAM) -> Answer:
    """The cheapest plan.

    Args:
        most_labels: looked at before the proof is given up.
        beam: labels kept at each level of the quick search before the exact one.
    """
    if question.costs.fixed.shape[0] > MAX_NODES:
        raise ValueError(f"at most {MAX_NODES} nodes can be planned for at once")
    bound = Bound(question, best_prices(question))
    if bound.least >= question.below * (1 - TIE):
        return Answer(None, float("inf"), 0)
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
        self._stage = costs.stage()
        self._stage2 = question.second.stage() if question.second else None
        self._starts = [Starts(allowed[node]) for node in range(self._count)]
        self._twin = twins(question)
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
            children = self._children(labels, rest)
            if beam is None and self.labels + children > most_labels:
                beam = WIDE_BEAM
            if beam is not None and len(rest) > beam:
                order = np.argpartition(labels.least[rest], beam)
                self.left_out = min(self.left_out, float(labels.least[rest[order[beam]]]))
                rest = rest[order[:beam]]
                children = self._children(labels, rest)
            if not len(rest):
                break
            self.labels += children
            growing = self._grow(labels.take(rest), rest, level, limit)
        return self._unwind(levels, *best, limit) if best else None

    def _children(self, labels: Labels, chosen: Array) -> int:
        """How many labels come of these."""
        masks, positions = labels.mask[chosen], labels.position[chosen]
        return sum(
            int(self._starts[node].count[positions[(masks >> node) & 1 == 0]].sum())
            for node in range(self._count)
        )

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
        last = self._positions - 1
        parts: list[tuple[Array, ...]] = []
        for node in range(self._count):
            if self._twin[node] is not None:
                continue
            starts = self._starts[node].of(np.array([last]))[1]
            count = len(starts)
            second = np.zeros(count) if self._stage2 is None else self._stage2[node, starts, last]
            parts.append(
                self._within(
                    limit,
                    1,
                    np.full(count, 1 << node),
                    np.full(count, node),
                    np.full(count, node),
                    starts,
                    self._stage[node, starts, last],
                    second,
                    np.full(count, -1),
                )
            )
        return self._best_of(concatenated(parts))

    def _grow(self, before: Labels, numbers: Array, level: int, limit: float) -> Labels:
        """Every stage put before every label.

        Args: numbers: what their children call them; level: how many stages they have.
        """
        question = self._question
        second = question.second
        parts: list[tuple[Array, ...]] = []
        for node in range(self._count):
            bit = 1 << node
            free = (before.mask & bit) == 0
            twin = self._twin[node]
            if twin is not None:
                free &= (before.mask & (1 << twin)) != 0
            chosen = np.flatnonzero(free)
            if not len(chosen):
                continue
            which, starts = self._starts[node].of(before.position[chosen])
            index = chosen[which]
            stops, front, tail = before.position[index], before.front[index], before.tail[index]
            cost = before.cost[index] + self._stage[node, starts, stops]
            cost += question.costs.link[node, front]
            done = starts == 0
            cost[done] += question.costs.back[tail[done], node]
            cost2 = before.second[index]
            if second is not None and self._stage2 is not None:
                cost2 = cost2 + self._stage2[node, starts, stops] + second.link[node, front]
                cost2[done] += second.back[tail[done], node]
            parts.append(
                self._within(
                    limit,
                    level + 1,
                    before.mask[index] | bit,
                    np.full(len(index), node),
                    tail,
                    starts,
                    cost,
                    cost2,
                    numbers[index],
                )
            )
        return self._best_of(concatenated(parts))

    def _within(
        self,
        limit: float,
        level: int,
        mask: Array,
        front: Array,
        tail: Array,
        position: Array,
        cost: Array,
        second: Array,
        parent: Array,
    ) -> tuple[Array, ...]:
        """Labels that may still become plans within the limits."""
        keep = np.flatnonzero(
            (cost < limit * (1 - TIE)) & (second <= self._question.second_limit * (1 + TIE))
        )
        mask, front, tail, position, cost = (x[keep] for x in (mask, front, tail, position, cost))
        least = cost + np.where(
            position > 0, self._bound.of(mask, front, tail, position, level), 0.0
        )
        made = (mask, front, tail, position, cost, least, second[keep], parent[keep])
        return tuple(x[least < limit * (1 - TIE)] for x in made)

    def _best_of(self, labels: Labels) -> Labels:
        """Of labels with one future, those that no other beats."""
        if not len(labels):
            return labels
        classes = self._count
        key = (labels.mask * classes + self._class[labels.front]) * classes
        key = (key + self._class[labels.tail]) * self._positions + labels.position
        if self._stage2 is None:
            order = np.lexsort((labels.cost, key))
            key = key[order]
            first = np.ones(len(key), dtype=bool)
            first[1:] = key[1:] != key[:-1]
            return labels.take(order[first])
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
