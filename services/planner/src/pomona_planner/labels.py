"""Parts of plans in parallel arrays, and how they are extended by a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pomona_planner.questions import Array


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


class Starts:
    """For one node and a stop, the positions where a stage may start.

    Attributes: count: (P,) of them, by stop.
    """

    def __init__(self, allowed: Array) -> None:
        stops, self._starts = np.nonzero(allowed.T)
        counts = np.bincount(stops, minlength=allowed.shape[0])
        self.count = counts
        self._offsets = np.concatenate(([0], np.cumsum(counts)[:-1]))

    def of(self, stops: Array) -> tuple[Array, Array]:
        """(index into ``stops``, start) of every stage that ends at one of the stops."""
        counts = self.count[stops]
        which = np.repeat(np.arange(len(stops)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which, self._starts[self._offsets[stops][which] + within]


def concatenated(parts: Sequence[tuple[Array, ...]]) -> Labels:
    if not parts:
        empty = np.zeros(0, dtype=np.int64)
        return Labels(empty, empty, empty, empty, np.zeros(0), np.zeros(0), np.zeros(0), empty)
    return Labels(*(np.concatenate(column) for column in zip(*parts, strict=True)))
