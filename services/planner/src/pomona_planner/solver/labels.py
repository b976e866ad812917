"""Parts of plans in parallel arrays, and how they are extended by a stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array

BLOCK = 1 << 16
"""Labels that are made at once: as many as stay in a processor's cache."""


@dataclass(slots=True, eq=False)
class Labels:
    """Parallel arrays, one entry a label.

    Attributes:
        least: what a plan costs at least that it becomes.
        parent: its index in the level before.
    """

    mask: Array
    front: Array
    tail: Array
    position: Array
    cost: Array
    least: Array
    second: Array
    parent: Array

    def take(self, chosen: Array) -> Labels:
        return Labels(*(getattr(self, name)[chosen] for name in self.__slots__))

    def __len__(self) -> int:
        return len(self.mask)


class Ranges:
    """All ranges that nodes may hold, in a row: by node, then by stop, then by start.

    Attributes:
        start: (R,) position.
        cost, second: (R,) seconds.
        count: (N, P) of them, by node and stop.
    """

    def __init__(self, allowed: Array, cost: Array, second: Array | None) -> None:
        node, stop, self.start = np.nonzero(allowed.transpose(0, 2, 1))
        self.cost = cost[node, self.start, stop]
        self.second = np.zeros(len(node)) if second is None else second[node, self.start, stop]
        shape = allowed.shape[:2]
        at = np.ravel_multi_index((node, stop), shape)
        self.count = np.bincount(at, minlength=shape[0] * shape[1]).reshape(shape)
        self._first = (np.cumsum(self.count) - self.count.ravel()).reshape(shape)

    def of(self, nodes: Array, stops: Array) -> tuple[Array, Array]:
        """(index into ``nodes``, range) of every range that a node may hold up to its stop."""
        counts = self.count[nodes, stops]
        which = np.repeat(np.arange(len(nodes)), counts)
        first = self._first[nodes, stops] - np.cumsum(counts) + counts
        return which, np.arange(len(which)) + first[which]


@dataclass(frozen=True, slots=True, eq=False)
class WaysOn:
    """How labels go on.

    Attributes:
        parent, node: (W,) numbers of a label, and of a node that may be put before it.
        ranges: (W,) how many ranges the node may hold there.
    """

    parent: Array
    node: Array
    ranges: Array

    @property
    def count(self) -> int:
        """Labels that come of them."""
        return int(self.ranges.sum())

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        """``parent`` and ``node`` in parts from which about ``BLOCK`` labels come."""
        edges = np.searchsorted(np.cumsum(self.ranges), np.arange(BLOCK, self.count, BLOCK))
        yield from zip(np.split(self.parent, edges), np.split(self.node, edges), strict=True)


def concatenated(parts: Sequence[Labels]) -> Labels:
    columns = zip(*([getattr(part, x) for x in Labels.__slots__] for part in parts), strict=True)
    return Labels(*(np.concatenate(column) for column in columns))
