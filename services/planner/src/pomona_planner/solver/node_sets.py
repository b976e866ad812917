"""Sets of nodes as numbers: bit n is set when node n is in the set."""

from __future__ import annotations

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array


def members(masks: Array, count: int) -> Array:
    """(M, N) whether each of ``count`` nodes is in each set."""
    octets = masks.astype("<u4").view(np.uint8).reshape(len(masks), 4)
    return np.unpackbits(octets, axis=1, count=count, bitorder="little").view(bool)


class FreeSums:
    """For any set of used nodes, the sum of a column over the nodes that are free.

    The sums for sets of the lower half of the nodes are made once, and so are those of the
    higher half: two look-ups and an addition make the sum of any.
    """

    def __init__(self, of_nodes: Array) -> None:
        """Args: of_nodes: (N, P); P columns."""
        self._half = (len(of_nodes) + 1) // 2
        self._width = of_nodes.shape[1]
        self._lower = _sums_of_free(of_nodes[: self._half]).ravel()
        self._higher = _sums_of_free(of_nodes[self._half :]).ravel()

    def rows(self, masks: Array) -> tuple[Array, Array]:
        """Where the sums of each set are, for :meth:`at`."""
        low = masks & ((1 << self._half) - 1)
        return low * self._width, (masks >> self._half) * self._width

    def at(self, rows: tuple[Array, Array], which: Array, columns: Array) -> Array:
        """Args: which: numbers of the sets; columns: one for each of them."""
        low, high = rows
        return self._lower[low[which] + columns] + self._higher[high[which] + columns]


def _sums_of_free(of_nodes: Array) -> Array:
    """(2^K, P) for each set of used nodes, the sum over the others. Args: of_nodes: (K, P)."""
    made = np.zeros((1, of_nodes.shape[1]))
    for one in of_nodes:
        made = np.concatenate((made + one, made))
    return made
