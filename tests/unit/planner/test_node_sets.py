"""Sums over free nodes agree with adding them one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pomona_planner.solver.node_sets import FreeSums, members


@given(st.integers(1, 20), st.data())
def test_tabulated_sums_equal_the_sum_over_free_nodes(count: int, data: st.DataObject) -> None:
    numbers = st.lists(st.integers(0, 2**count - 1), min_size=1, max_size=8)
    masks = np.array(data.draw(numbers))
    by_node = np.arange(1.0, 2 * count + 1).reshape(count, 2) ** 2
    sums = FreeSums(by_node)
    used = members(masks, count)
    for column in (0, 1):
        columns = np.full(len(masks), column)
        found = sums.at(sums.rows(masks), np.arange(len(masks)), columns)
        for mask, row, value in zip(masks.tolist(), used, found, strict=True):
            assert row.tolist() == [bool(mask >> node & 1) for node in range(count)]
            assert value == by_node[~row, column].sum()
