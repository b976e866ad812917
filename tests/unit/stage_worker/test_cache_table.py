"""Tests joining and leaving lanes: caches equal those of mlx-lm's merge, extend and extract, with
room for more tokens."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import BatchKVCache, KVCache

from pomona.messages.cache_ops import Join, Leave
from pomona_stage_worker.model.cache_table import CacheTable

HEADS, DIMS, LAYERS = 2, 4, 3


def filled(length: int, dims: int = DIMS) -> Any:
    cache = KVCache()
    if length:
        cache.update_and_fetch(
            mx.random.normal((1, HEADS, length, dims)), mx.random.normal((1, HEADS, length, dims))
        )
    return cache


def joined(sequences: list[list[Any]]) -> list[Any]:
    table = CacheTable(list, sequences=dict(enumerate(sequences)))
    table.apply(Join(1, tuple(range(len(sequences)))))
    return table.lanes[1].caches


def assert_same(ours: Any, theirs: Any) -> None:
    """Compares two batched caches, or two of one row."""
    assert ours.size() == theirs.size()
    assert mx.array_equal(mx.array(ours.offset), mx.array(theirs.offset))
    assert vars(ours).keys() == vars(theirs).keys()
    if isinstance(theirs, BatchKVCache):
        assert ours.left_padding.tolist() == theirs.left_padding.tolist()
    pairs = zip(ours.keys_and_values(), theirs.keys_and_values(), strict=True)
    assert all(mx.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("lengths", [(5, 3), (256, 255), (1, 300, 256), (7, 7)])
@pytest.mark.parametrize("dims", [DIMS, 0])
def test_a_joined_lane_equals_mlx_lms_merge(lengths: tuple[int, ...], dims: int) -> None:
    rows = [[filled(length, dims) for _ in range(LAYERS)] for length in lengths]
    for ours, column in zip(joined(rows), zip(*rows, strict=True), strict=True):
        assert_same(ours, KVCache.merge(list(column)))


@pytest.mark.parametrize("joining", [(4,), (2, 300), (300, 2)])
def test_rows_that_join_later_equal_mlx_lms_extend(joining: tuple[int, ...]) -> None:
    rows = [[filled(length)] for length in (5, 9, *joining)]
    table = CacheTable(list, sequences=dict(enumerate(rows)))
    table.apply(Join(1, (0, 1)))
    table.apply(Join(1, tuple(range(2, len(rows)))))
    theirs: Any = KVCache.merge([rows[0][0], rows[1][0]])
    theirs.extend(KVCache.merge([row[0] for row in rows[2:]]))
    assert_same(table.lanes[1].caches[0], theirs)


@pytest.mark.parametrize("staying", [0, 1])
def test_the_last_row_of_a_lane_equals_its_own_cache_with_room(staying: int) -> None:
    rows = [[filled(length) for _ in range(LAYERS)] for length in (256, 9)]
    table = CacheTable(list, sequences=dict(enumerate(rows)))
    table.apply(Join(1, (0, 1)))
    table.apply(Leave(1, (1 - staying,)))
    for stayed, left, first, second in zip(
        table.lanes[1].caches, table.sequences[1 - staying], *rows, strict=True
    ):
        assert_same(stayed, (first, second)[staying])
        assert_same(left, (first, second)[1 - staying])
        before = stayed.keys.shape
        stayed.update_and_fetch(mx.ones((1, HEADS, 1, DIMS)), mx.ones((1, HEADS, 1, DIMS)))
        assert stayed.keys.shape == before


def test_a_joined_lane_has_room_for_the_next_tokens() -> None:
    lane = joined([[filled(256)], [filled(9)]])
    before = lane[0].keys.shape
    lane[0].update_and_fetch(mx.ones((2, HEADS, 1, DIMS)), mx.ones((2, HEADS, 1, DIMS)))
    assert lane[0].keys.shape == before == (2, HEADS, 512, DIMS)


def test_rows_without_tokens_are_merged_by_mlx_lm() -> None:
    lane = joined([[filled(0)], [filled(4)]])
    assert isinstance(lane[0], BatchKVCache)
    assert lane[0].offset.tolist() == [0, 4]


def test_joined_layers_share_one_offset_array() -> None:
    lane = joined([[filled(6) for _ in range(LAYERS)], [filled(2) for _ in range(LAYERS)]])
    assert all(cache.offset is lane[0].offset for cache in lane)
