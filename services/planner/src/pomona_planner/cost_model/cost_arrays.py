"""What stages and links cost, and which of them are alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

MOST_KINDS = 6
"""Kinds of layers that are told apart; when there are more, similar ones count as one."""


@dataclass(frozen=True, eq=False)
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

    @cached_property
    def stage(self) -> Array:
        """(N, P, P): a stage on a node from one position to another."""
        made = (self.fixed[:, None] + self.before)[:, None, :] - self.before[:, :, None]
        made[:, :, -1] += self.last[:, None]
        return made

    @cached_property
    def kinds(self) -> RangeKinds:
        return RangeKinds(self.before)

    @cached_property
    def link_classes(self) -> Array:
        """(N,) numbers; nodes of one number have the same links to all others."""
        classes = np.arange(len(self.fixed))
        for b in classes:
            alike = (a for a in range(b) if self.same_links(a, int(b)))
            classes[b] = classes[next(alike, b)]
        return classes

    def same_links(self, a: int, b: int) -> bool:
        """Whether swapping two nodes leaves all links as they are."""
        return all(_same(matrix, a, b) for matrix in (self.link, self.back))

    def of(self, nodes: list[int], cuts: list[int]) -> float:
        """All stages and links of a plan. Args: cuts: positions, one more than nodes."""
        stages = sum(
            self.stage[n, a, b] for n, a, b in zip(nodes, cuts[:-1], cuts[1:], strict=True)
        )
        return float(stages) + self.links_of(nodes)

    def links_of(self, nodes: list[int]) -> float:
        """All links of a plan, the way back included."""
        links = sum(self.link[a, b] for a, b in pairwise(nodes))
        return float(links + (self.back[nodes[-1], nodes[0]] if len(nodes) > 1 else 0.0))


class RangeKinds:
    """Layers of one kind take equally long on every node; the first and the last layer are of
    their own kinds. Ranges of one kind hold as many layers of each kind.

    Attributes:
        layers: (P - 1,) kind of each layer.
        held: (R, K) layers of each kind that a kind of range holds.
        begins, ends: (R,) whether the range holds the first, and the last layer.
    """

    def __init__(self, before: Array) -> None:
        positions = before.shape[1]
        self.layers = _kinds_of_layers(before)
        count = int(self.layers.max()) + 1
        sums = np.zeros((positions, count), dtype=np.int64)
        np.cumsum(np.eye(count, dtype=np.int64)[self.layers], axis=0, out=sums[1:])
        starts, stops = np.triu_indices(positions, 1)
        held = sums[stops] - sums[starts]
        key = held @ (positions ** np.arange(count))
        order = np.argsort(key, kind="stable")
        self._firsts = np.flatnonzero(np.diff(key[order], prepend=-1))
        self._ranges = (starts * positions + stops)[order]
        chosen = order[self._firsts]
        self.held = held[chosen].astype(float)
        self.begins, self.ends = starts[chosen] == 0, stops[chosen] == positions - 1

    def cheapest(self, cost: Array) -> Array:
        """(N, R) the cheapest range of each kind. Args: cost: (N, P, P)."""
        ordered = cost.reshape(len(cost), -1).take(self._ranges, axis=1)
        return np.minimum.reduceat(ordered, self._firsts, axis=1)


def _kinds_of_layers(before: Array) -> Array:
    times = np.diff(before, axis=1)
    scale = max(float(times.max()), 1e-15)
    _, kinds = np.unique(np.round(times.T / scale, 9), axis=0, return_inverse=True)
    kinds = kinds.ravel()
    if kinds.max() >= MOST_KINDS:
        means = times.mean(axis=0)
        edges = np.quantile(means, np.linspace(0, 1, MOST_KINDS + 1)[1:-1])
        kinds = np.searchsorted(edges, means, side="right")
    kinds[0], kinds[-1] = kinds.max() + 1, kinds.max() + 2
    return np.unique(kinds, return_inverse=True)[1].ravel()


def _same(matrix: Array, a: int, b: int) -> bool:
    """Whether swapping two nodes leaves the matrix as it is."""
    if matrix[a, b] != matrix[b, a]:
        return False
    differ = (matrix[a] != matrix[b]) | (matrix[:, a] != matrix[:, b])
    differ[[a, b]] = False
    return not differ.any()
