"""The cheapest ordered stages: exact, over nodes, their order and the cuts at once.

A plan is built from the tail to the head. A *label* is a part of one: the nodes it uses
(``mask``), the node at its front, its tail, the position where it begins, and what it
costs. Labels that agree in all but the cost have the same future, so the cheapest stands
for them all (dynamic programming, R. Bellman 1957; M. Held and R. Karp 1962 for the order).
A label that cannot become cheaper than the best plan known is dropped (branch and bound):
the bound of what is left is the linear relaxation of giving its layers to the free nodes,
each up to what it can hold, its fixed costs spread over that.

Nodes that are interchangeable are taken in their given order; nodes whose links are equal
count as one front. So sixteen equal nodes are as quick as sixteen different ones. All is
numpy over arrays of labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

MAX_NODES = 20
"""Sets of nodes are numbered; this many nodes make a million sets."""
MOST_LABELS = 800_000
"""Labels looked at before the search gives up its proof and only goes on with the best."""
BEAM = 128
"""Labels kept at each level of the quick search, which gives the exact one its first bound."""
WIDE_BEAM = 1024
"""The same once the search has given up its proof."""
TIE = 1e-9
"""Costs that differ by less than this share are equal."""


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """What stages and links cost, in seconds. N nodes, P positions at which a cut may be.

    Attributes:
        fixed: (N,) of any stage on a node.
        before: (N, P) of all layers before a position; rises along positions.
        last: (N,) more when a stage is the tail.
        link: (N, N) from a node to the next stage's.
        back: (N, N) from the tail to the head.
    """

    fixed: Array
    before: Array
    last: Array
    link: Array
    back: Array

    def stage(self) -> Array:
        """(N, P, P): a stage on a node from one position to another."""
        made = self.fixed[:, None, None] + self.before[:, None, :] - self.before[:, :, None]
        made[:, :, -1] += self.last[:, None]
        return made

    def of(self, nodes: list[int], cuts: list[int]) -> float:
        """All stages and links of a plan. Args: cuts: positions, one more than nodes."""
        stage = self.stage()
        stages = sum(stage[n, a, b] for n, a, b in zip(nodes, cuts[:-1], cuts[1:], strict=True))
        links = sum(self.link[a, b] for a, b in pairwise(nodes))
        back = self.back[nodes[-1], nodes[0]] if len(nodes) > 1 else 0.0
        return float(stages + links + back)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Find the cheapest plan.

    Attributes:
        costs: to be minimised: all stages, all links, and the way back.
        allowed: (N, P, P) whether a node may hold a stage from one position to another.
        stages: exactly this many; None for any number.
        most_stages: at most this many.
        required: nodes that must be used.
        below: only plans that cost less than this.
        second: costs of another kind, whose sum must not pass ``second_limit``.
        any_will_do: the first plan found is good enough.
    """

    costs: Costs
    allowed: Array
    stages: int | None = None
    most_stages: int = MAX_NODES
    required: frozenset[int] = frozenset()
    below: float = float("inf")
    second: Costs | None = None
    second_limit: float = float("inf")
    any_will_do: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A plan.

    Attributes:
        nodes: in the order of the stages.
        cuts: positions, one more than nodes.
        cost: what was minimised.
    """

    nodes: tuple[int, ...]
    cuts: tuple[int, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Attributes:
    found: the cheapest plan, or None when none costs less than ``below``.
    bound: no plan costs less than this, but for ``found``; infinite when the search was
        whole.
    labels: looked at.
    """

    found: Found | None
    bound: float
    labels: int

    @property
    def proven(self) -> bool:
        return self.bound == float("inf") or (
            self.found is not None and self.bound >= self.found.cost
        )


def cheapest(question: Question, most_labels: int = MOST_LABELS, beam: int = BEAM) -> Answer:
    """The cheapest plan.

    Args:
        most_labels: looked at before the proof is given up.
        beam: labels kept at each level of the quick search before the exact one.
    """
    if question.costs.fixed.shape[0] > MAX_NODES:
        raise ValueError(f"at most {MAX_NODES} nodes can be planned for at once")
    search = _Search(question)
    found = search.run(question.below, beam, most_labels)
    settled = found is not None and question.any_will_do
    if most_labels > 0 and search.left_out < float("inf") and not settled:
        limit = found.cost if found is not None else question.below
        found = search.run(limit, None, most_labels) or found
    return Answer(found and search.in_order(found), search.left_out, search.labels)


@dataclass(slots=True, eq=False)
class _Labels:
    """Parallel arrays, one entry a label. ``parent`` is its index in the level before."""

    mask: Array
    front: Array
    tail: Array
    position: Array
    cost: Array
    second: Array
    parent: Array

    def take(self, chosen: Array) -> _Labels:
        return _Labels(*(getattr(self, name)[chosen] for name in self.__slots__))

    def __len__(self) -> int:
        return len(self.mask)


class _Search:
    def __init__(self, question: Question) -> None:
        self.left_out = float("inf")
        self.labels = 0
        self._question = question
        costs, allowed = question.costs, question.allowed
        self._count, self._positions = costs.before.shape
        self._stage = costs.stage()
        self._stage2 = question.second.stage() if question.second else None
        self._starts = [_Starts(allowed[node]) for node in range(self._count)]
        self._twin = _twins(question)
        self._class = _link_classes(question)
        self._required = sum(1 << node for node in question.required)
        self._bound = _Bound(question)

    def run(self, below: float, beam: int | None, most_labels: int) -> Found | None:
        """The cheapest plan below a cost. ``left_out`` becomes the least that a label which
        was left out could have cost.

        Level k holds the plans of k stages. Args: beam: labels kept a level; None keeps all.
        """
        question = self._question
        most = min(question.stages or question.most_stages, self._count)
        levels: list[_Labels] = []
        best: tuple[int, int] | None = None
        limit, seen = below, 0
        self.left_out = float("inf")
        growing = self._begin()
        for level in range(1, most + 1):
            labels = growing
            done = labels.position == 0
            if question.stages not in (None, level):
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
            rest = np.flatnonzero(labels.position > 0)
            estimate = labels.cost[rest] + self._bound.of(labels, rest, level)
            keep = estimate < limit * (1 - TIE)
            rest, estimate = rest[keep], estimate[keep]
            seen += len(rest) * self._count
            self.labels += len(rest) * self._count
            if beam is None and seen > most_labels:
                beam = min(WIDE_BEAM, max(BEAM, most_labels // 512))
            if beam is not None and len(rest) > beam:
                order = np.argpartition(estimate, beam)
                self.left_out = min(self.left_out, float(estimate[order[beam]]))
                rest = rest[order[:beam]]
            if not len(rest):
                break
            growing = self._grow(labels.take(rest), rest, limit)
        return self._unwind(levels, *best, limit) if best else None

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

    def _begin(self) -> _Labels:
        """Every stage that can be the tail."""
        last = self._positions - 1
        parts: list[tuple[Array, ...]] = []
        for node in range(self._count):
            if self._twin[node] is not None:
                continue
            starts = self._starts[node].of(np.array([last]))[1]
            count = len(starts)
            cost = self._stage[node, starts, last]
            parts.append(
                (
                    np.full(count, 1 << node),
                    np.full(count, node),
                    np.full(count, node),
                    starts,
                    cost,
                    np.zeros(count) if self._stage2 is None else self._stage2[node, starts, last],
                    np.full(count, -1),
                )
            )
        return self._best_of(_concatenated(parts), float("inf"))

    def _grow(self, before: _Labels, numbers: Array, limit: float) -> _Labels:
        """Every stage put before every label. Args: numbers: what their children call them."""
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
            keep = cost < limit * (1 - TIE)
            if second is not None and self._stage2 is not None:
                cost2 = cost2 + self._stage2[node, starts, stops] + second.link[node, front]
                cost2[done] += second.back[tail[done], node]
            index, starts = index[keep], starts[keep]
            made = (
                before.mask[index] | bit,
                np.full(len(index), node),
                before.tail[index],
                starts,
                cost[keep],
                cost2[keep],
                numbers[index],
            )
            parts.append(made)
        return self._best_of(_concatenated(parts), limit)

    def _best_of(self, labels: _Labels, limit: float) -> _Labels:
        """Of labels with one future, those that no other beats."""
        if not len(labels):
            return labels
        rest = np.flatnonzero(labels.position > 0)
        level = int(labels.mask[0]).bit_count()
        bound = np.zeros(len(labels))
        bound[rest] = self._bound.of(labels, rest, level)
        keep = labels.cost + bound < limit * (1 - TIE)
        keep &= labels.second <= self._question.second_limit * (1 + TIE)
        labels = labels.take(keep)
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

    def _unwind(self, levels: list[_Labels], level: int, at: int, cost: float) -> Found:
        nodes: list[int] = []
        cuts: list[int] = []
        while level:
            labels = levels[level - 1]
            nodes.append(int(labels.front[at]))
            cuts.append(int(labels.position[at]))
            at = int(labels.parent[at])
            level -= 1
        return Found(tuple(nodes), (*cuts, self._positions - 1), cost)


class _Starts:
    """For one node and a stop, the positions where a stage may start."""

    def __init__(self, allowed: Array) -> None:
        stops, self._starts = np.nonzero(allowed.T)
        counts = np.bincount(stops, minlength=allowed.shape[0])
        self._counts = counts
        self._offsets = np.concatenate(([0], np.cumsum(counts)[:-1]))

    def of(self, stops: Array) -> tuple[Array, Array]:
        """(index into ``stops``, start) of every stage that ends at one of the stops."""
        counts = self._counts[stops]
        which = np.repeat(np.arange(len(stops)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which, self._starts[self._offsets[stops][which] + within]


class _Bound:
    """At least what the layers before a position cost on the nodes that are free.

    Each layer has a weight, its mean time over the nodes. A node does a unit of weight in
    ``rate`` at the quickest and holds at most ``room`` of it; a stage on it costs at least
    ``entry`` besides.
    """

    def __init__(self, question: Question) -> None:
        costs, allowed = question.costs, question.allowed
        self._count, self._positions = costs.before.shape
        self._stages = question.stages
        times = np.diff(costs.before, axis=1)
        weights = np.maximum(times.mean(axis=0), 1e-15)
        self._before = np.concatenate(([0.0], np.cumsum(weights)))
        held = self._before[None, :] - self._before[:, None]
        inner = allowed[:, :, :-1]
        self._room = np.where(inner, held[None, :, :-1], 0.0).max(axis=(1, 2))
        self._rate = (times / weights).min(axis=1)
        off = costs.link + np.where(np.eye(self._count, dtype=bool), np.inf, 0.0)
        self._entry = costs.fixed + (off.min(axis=1) if self._count > 1 else 0.0)
        # A node from which no link leads on can only be the tail.
        self._room[np.isinf(self._entry)] = 0.0
        held_any = self._room > 0
        self._entry_share = np.zeros(self._count)
        self._entry_share[held_any] = self._entry[held_any] / self._room[held_any]
        back = costs.back + np.where(np.eye(self._count, dtype=bool), np.inf, 0.0)
        self._back = back.min(axis=1) if self._count > 1 else np.zeros(self._count)
        self._rows = np.full(1 << self._count, -1, dtype=np.int32)
        self._tables: list[Array] = []
        self._table = np.zeros((0, self._positions))

    def of(self, labels: _Labels, chosen: Array, level: int) -> Array:
        """For each chosen label, in seconds; infinite when the rest fits nowhere."""
        masks = labels.mask[chosen]
        new = np.unique(masks[self._rows[masks] < 0])
        if len(new):
            self._rows[new] = len(self._table) + np.arange(len(new))
            self._table = np.concatenate((self._table, self._made(new, level)))
        rows = self._rows[masks]
        bound = self._table[rows, labels.position[chosen]] + self._back[labels.tail[chosen]]
        return bound

    def _made(self, masks: Array, level: int) -> Array:
        free = (masks[:, None] >> np.arange(self._count)) & 1 == 0
        room = np.where(free, self._room, 0.0)
        shape = (len(masks), self._positions)
        weight = np.broadcast_to(self._before, shape)
        spread = self._rate + self._entry_share
        relaxed, left = self._filled(weight, room, spread)
        plain, _ = self._filled(weight, room, self._rate)
        needed = self._nodes_needed(weight, room)
        if self._stages is not None:
            wanted = self._stages - level
            left = np.where(needed > wanted, np.inf, left)
            needed = np.full(shape, wanted)
        entries = np.sort(np.where(free, self._entry, np.inf), axis=1)
        sums = np.concatenate((np.zeros((len(masks), 1)), np.cumsum(entries, axis=1)), axis=1)
        counted = plain + np.take_along_axis(sums, np.minimum(needed, self._count), axis=1)
        bound = np.maximum(relaxed, counted)
        bound[left > 1e-9 * self._before[-1]] = np.inf
        bound[:, 0] = 0.0
        # The sum of many small numbers may end a hair above its exact value.
        return bound * (1 - 1e-12)

    def _filled(self, weight: Array, room: Array, price: Array) -> tuple[Array, Array]:
        left = weight.copy()
        cost = np.zeros_like(left)
        for node in np.argsort(price, kind="stable"):
            taken = np.minimum(left, room[:, node, None])
            cost += taken * price[node]
            left -= taken
        return cost, left

    def _nodes_needed(self, weight: Array, room: Array) -> Array:
        largest = np.cumsum(-np.sort(-room, axis=1), axis=1)
        slack = 1e-9 * self._before[-1]
        return (largest[:, None, :] < weight[:, :, None] - slack).sum(axis=2) + (weight > 0)


def _twins(question: Question) -> list[int | None]:
    """For each node the interchangeable one before it, which is to be used first."""
    count = question.costs.fixed.shape[0]
    kinds = [question.costs] + ([question.second] if question.second is not None else [])

    def same(a: int, b: int) -> bool:
        if (a in question.required) != (b in question.required):
            return False
        if not np.array_equal(question.allowed[a], question.allowed[b]):
            return False
        return all(
            costs.fixed[a] == costs.fixed[b]
            and costs.last[a] == costs.last[b]
            and np.array_equal(costs.before[a], costs.before[b])
            and _same_links(costs.link, a, b)
            and _same_links(costs.back, a, b)
            for costs in kinds
        )

    return [next((a for a in range(b - 1, -1, -1) if same(a, b)), None) for b in range(count)]


def _link_classes(question: Question) -> Array:
    """A number for each node; nodes of one number have the same links to all others."""
    count = question.costs.fixed.shape[0]
    kinds = [question.costs] + ([question.second] if question.second is not None else [])
    classes = np.arange(count)
    for b in range(count):
        for a in range(b):
            if all(_same_links(c.link, a, b) and _same_links(c.back, a, b) for c in kinds):
                classes[b] = classes[a]
                break
    return classes


def _same_links(matrix: Array, a: int, b: int) -> bool:
    """Whether swapping two nodes leaves the matrix as it is."""
    others = [n for n in range(len(matrix)) if n not in (a, b)]
    return bool(
        matrix[a, b] == matrix[b, a]
        and np.array_equal(matrix[a, others], matrix[b, others])
        and np.array_equal(matrix[others, a], matrix[others, b])
    )


def _concatenated(parts: list[tuple[Array, ...]]) -> _Labels:
    if not parts:
        empty = np.zeros(0, dtype=np.int64)
        return _Labels(empty, empty, empty, empty, np.zeros(0), np.zeros(0), empty)
    return _Labels(*(np.concatenate(column) for column in zip(*parts, strict=True)))
