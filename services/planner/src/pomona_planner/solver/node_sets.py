"""Sets of nodes as bit masks: bit n is set when node n is in the set."""

from __future__ import annotations

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array


def members(masks: Array, count: int) -> Array:
    """Returns (M, N): whether each of ``count`` nodes is in each set."""
    octets = masks.astype("<u4").view(np.uint8).reshape(len(masks), 4)
    return np.unpackbits(octets, axis=1, count=count, bitorder="little").view(bool)


class FreeSums:
    """Sums of a column over the free nodes, for any set of used nodes.

    The sums of all subsets of the lower half of the nodes are tabulated, and so are those of
    the upper half. Two look-ups and an addition give any sum.
    """

    def __init__(self, by_node: Array) -> None:
        """Args: by_node: (N, P) values; P columns."""
        self._half = (len(by_node) + 1) // 2
        self._width = by_node.shape[1]
        self._lower = _sums_of_free(by_node[: self._half]).ravel()
        self._upper = _sums_of_free(by_node[self._half :]).ravel()

    def rows(self, masks: Array) -> tuple[Array, Array]:
        """Returns the table offsets of each set, for :meth:`at`."""
        low = masks & ((1 << self._half) - 1)
        return low * self._width, (masks >> self._half) * self._width

    def at(self, rows: tuple[Array, Array], which: Array, columns: Array) -> Array:
        """Returns the sums at one column of each chosen set.

        Args:
            which: indices of the chosen sets in ``rows``.
            columns: one for each chosen set.
        """
        low, high = rows
        return self._lower[low[which] + columns] + self._upper[high[which] + columns]


def _sums_of_free(by_node: Array) -> Array:
    """Returns (2^K, P): for each set of used nodes, the sum over the other ones of K nodes."""
    sums = np.zeros((1, by_node.shape[1]))
    for values in by_node:
        sums = np.concatenate((sums + values, sums))
    return sums
