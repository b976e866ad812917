"""Labels (partial plans) in parallel arrays, and the stages by which they can be extended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array

BLOCK = 1 << 16
"""Labels generated at once, which fit into a processor's cache."""


@dataclass(slots=True, eq=False)
class Labels:
    """Partial plans in parallel arrays, one entry for each label.

    Attributes:
        mask: nodes used, as a bit mask.
        front: node of the foremost stage so far.
        tail: node of the tail.
        position: start of the foremost stage; the layers before it are still to be placed.
        cost: cost so far.
        bound: lower bound on the cost of any completion.
        second_cost: cost so far in the query's second costs.
        parent: index of the label in the level before; -1 in the first level.
    """

    mask: Array
    front: Array
    tail: Array
    position: Array
    cost: Array
    bound: Array
    second_cost: Array
    parent: Array

    def columns(self) -> tuple[Array, ...]:
        return (
            self.mask,
            self.front,
            self.tail,
            self.position,
            self.cost,
            self.bound,
            self.second_cost,
            self.parent,
        )

    def take(self, chosen: Array) -> Labels:
        return Labels(*(column[chosen] for column in self.columns()))

    def __len__(self) -> int:
        return len(self.mask)


class StageRanges:
    """All R allowed stages in a row, ordered by node, then stop, then start.

    Attributes:
        start: (R,) start position.
        cost, second_cost: (R,) cost of the stage.
        count: (N, P) number of stages by node and stop.
    """

    def __init__(self, allowed: Array, cost: Array, second_cost: Array | None) -> None:
        node, stop, self.start = np.nonzero(allowed.transpose(0, 2, 1))
        self.cost = cost[node, self.start, stop]
        self.second_cost = (
            np.zeros(len(node)) if second_cost is None else second_cost[node, self.start, stop]
        )
        shape = allowed.shape[:2]
        at = np.ravel_multi_index((node, stop), shape)
        self.count = np.bincount(at, minlength=shape[0] * shape[1]).reshape(shape)
        self._first = (np.cumsum(self.count) - self.count.ravel()).reshape(shape)

    def ending_at(self, nodes: Array, stops: Array) -> tuple[Array, Array]:
        """Returns (index into ``nodes``, index of the stage) of every stage with a given stop.

        Args:
            stops: one for each of ``nodes``.
        """
        counts = self.count[nodes, stops]
        which = np.repeat(np.arange(len(nodes)), counts)
        first = self._first[nodes, stops] - np.cumsum(counts) + counts
        return which, np.arange(len(which)) + first[which]


@dataclass(frozen=True, slots=True, eq=False)
class Extensions:
    """Pairs of a label and a node that may be put before it.

    Attributes:
        parent: (E,) index of the label.
        node: (E,) the node.
        ranges: (E,) number of stages that the node may hold there.
    """

    parent: Array
    node: Array
    ranges: Array

    @property
    def label_count(self) -> int:
        """Number of labels to be generated."""
        return int(self.ranges.sum())

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        """Yields ``parent`` and ``node`` in blocks that generate about ``BLOCK`` labels each."""
        edges = np.searchsorted(np.cumsum(self.ranges), np.arange(BLOCK, self.label_count, BLOCK))
        yield from zip(np.split(self.parent, edges), np.split(self.node, edges), strict=True)


def concatenate(parts: Sequence[Labels]) -> Labels:
    columns = zip(*(part.columns() for part in parts), strict=True)
    return Labels(*(np.concatenate(column) for column in columns))
