"""A rollback leaves the caches that the confirmed tokens alone would have left."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from pomona.messages.cache_ops import Join, Rollback
from pomona_stage_worker.model.cache_table import CacheTable, CacheTableError
from pomona_stage_worker.model.guess_log import GuessLog, can_roll_back, can_trim

KINDS: dict[str, Any] = {
    "plain": KVCache,
    "quantised": lambda: QuantizedKVCache(group_size=32, bits=8),
    "rotating": lambda: RotatingKVCache(max_size=8),
    "rotating with sinks": lambda: RotatingKVCache(max_size=8, keep=2),
    "chunked": lambda: ChunkedKVCache(8),
    "arrays": lambda: ArraysCache(2),
    "list": lambda: CacheList(KVCache(), RotatingKVCache(max_size=8)),
}


def feed(cache: Any, token: int) -> list[mx.array]:
    """Appends one token to a cache. Returns what attention would read."""
    if isinstance(cache, CacheList):
        return [array for part in cache.caches for array in feed(part, token)]
    if isinstance(cache, ArraysCache):
        before = mx.zeros((1, 4)) if cache[0] is None else cache[0]
        cache[0] = before * 0.5 + token
        cache[1] = mx.full((1, 2), token)
        return [cache[0], cache[1]]
    if isinstance(cache, ChunkedKVCache):
        cache.maybe_trim_front()
    values = mx.full((1, 2, 1, 32), float(token))
    keys, values = cache.update_and_fetch(values, -values)
    flat = [*keys, *values] if isinstance(keys, tuple | list) else [keys, values]
    return [mx.array(array) for array in flat]


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("confirmed", [1, 5, 7, 8, 9, 20])
@pytest.mark.parametrize("right", [0, 1, 3])
def test_a_cache_is_as_if_the_wrong_guesses_had_never_been(
    kind: str, confirmed: int, right: int
) -> None:
    cache, plain = KINDS[kind](), KINDS[kind]()
    log = GuessLog()
    for token in range(confirmed):
        feed(cache, token)
        feed(plain, token)
    for guess in range(4):
        log.add([cache], confirmed + guess, 1, confirmed)
        feed(cache, confirmed + guess if guess < right else 90 + guess)
    log.rollback(confirmed + right)
    for token in range(confirmed, confirmed + right):
        feed(plain, token)
    for token in range(60, 80):
        for ours, theirs in zip(feed(cache, token), feed(plain, token), strict=True):
            assert mx.array_equal(mx.sort(ours.reshape(-1)), mx.sort(theirs.reshape(-1)))


def test_plain_and_quantised_caches_can_be_cut_inside_a_step() -> None:
    for make in (KINDS["plain"], KINDS["quantised"]):
        cache = make()
        log = GuessLog()
        feed(cache, 1)
        log.add([cache], 1, 4, 2)
        for token in (2, 3, 4, 5):
            feed(cache, token)
        log.rollback(3)
        assert cache.offset == 3


def test_a_state_space_cache_cannot_be_cut_inside_a_step() -> None:
    cache = ArraysCache(2)
    log = GuessLog()
    log.add([cache], 0, 4, 1)
    feed(cache, 1)
    with pytest.raises(ValueError, match="roll back"):
        log.rollback(2)


def test_a_rollback_without_guesses_changes_nothing() -> None:
    log = GuessLog()
    assert not log.undoes(3)
    log.rollback(3)


def test_confirmed_steps_are_forgotten() -> None:
    cache = KVCache()
    log = GuessLog()
    for position in range(5):
        log.add([cache], position, 1, position)
        feed(cache, position)
    assert not log.undoes(5)
    assert log.undoes(4)


def test_only_the_row_of_a_lane_of_one_is_rolled_back() -> None:
    table = CacheTable(lambda: [KVCache()], sequences={1: [KVCache()], 2: [KVCache()]})
    for caches in table.sequences.values():
        feed(caches[0], 1)
    table.apply(Join(1, (1, 2)))
    with pytest.raises(CacheTableError, match="rows"):
        table.apply(Rollback(1, 0, 1))


def test_the_branch_is_part_of_what_stages_agree_on() -> None:
    table = CacheTable(lambda: [KVCache()], sequences={1: [KVCache()]})
    table.apply(Join(1, (1,)))
    before = table.table()
    table.apply(Rollback(1, 0, 1))
    assert table.table() != before


def test_caches_with_unknown_attributes_are_not_rolled_back() -> None:
    cache: Any = KVCache()
    assert can_roll_back([cache])
    assert can_trim([cache])
    cache.helper = object()
    assert not can_roll_back([cache])
    assert not can_trim([ArraysCache(2)])
