"""Sequences that become rows of one lane: what mlx-lm's own merge holds, and room for more."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import BatchKVCache, KVCache

from pomona.messages.data import Join
from pomona_stage_worker.caches import CacheTable

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
    table.apply(Join("join", 1, tuple(range(len(sequences)))))
    return table.lanes[1].caches


@pytest.mark.parametrize("lengths", [(5, 3), (256, 255), (1, 300, 256), (7, 7)])
@pytest.mark.parametrize("dims", [DIMS, 0])
def test_a_lane_holds_what_mlx_lm_merges(lengths: tuple[int, ...], dims: int) -> None:
    rows = [[filled(length, dims) for _ in range(LAYERS)] for length in lengths]
    for ours, column in zip(joined(rows), zip(*rows, strict=True), strict=True):
        theirs = KVCache.merge(list(column))
        assert ours.size() == theirs.size()
        assert ours.offset.tolist() == theirs.offset.tolist()
        assert ours.left_padding.tolist() == theirs.left_padding.tolist()
        pairs = zip(ours.keys_and_values(), theirs.keys_and_values(), strict=True)
        assert all(mx.array_equal(one, other) for one, other in pairs)


def test_the_next_tokens_have_room_without_another_copy() -> None:
    lane = joined([[filled(256)], [filled(9)]])
    before = lane[0].keys.shape
    lane[0].update_and_fetch(mx.ones((2, HEADS, 1, DIMS)), mx.ones((2, HEADS, 1, DIMS)))
    assert lane[0].keys.shape == before == (2, HEADS, 512, DIMS)


def test_rows_without_tokens_are_left_to_mlx_lm() -> None:
    lane = joined([[filled(0)], [filled(4)]])
    assert isinstance(lane[0], BatchKVCache)
    assert lane[0].offset.tolist() == [0, 4]


def test_layers_share_their_offsets_from_the_first_step_on() -> None:
    lane = joined([[filled(6) for _ in range(LAYERS)], [filled(2) for _ in range(LAYERS)]])
    assert all(cache.offset is lane[0].offset for cache in lane)
