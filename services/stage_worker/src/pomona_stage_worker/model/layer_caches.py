"""Operations on mlx-lm's KV caches: batching, slicing, concatenating.

Batched caches are mlx-lm's, padded on the left. Joining and extracting rows of plain KV caches is
done here, because mlx-lm's ``merge``, ``extend`` and ``extract`` allocate no room for the next
tokens: the first step would copy everything again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache, QuantizedKVCache

from pomona_stage_worker.slicing import StageModel
from pomona_stage_worker.slicing.phantom_caches import leaf_caches, share_offsets

Caches: TypeAlias = list[Any]
"""One mlx-lm cache per layer, phantoms included."""


def cache_arrays(caches: Caches) -> list[mx.array]:
    """Returns every array inside caches, however nested."""
    found: list[mx.array] = []
    _collect_arrays(caches, found)
    return found


def _collect_arrays(value: Any, found: list[mx.array]) -> None:
    """Appends every array inside ``value``.

    A function of the module: a nested one that calls itself is a reference cycle, which would keep
    the arrays of every step until the garbage collector runs.
    """
    if isinstance(value, mx.array):
        found.append(value)
    elif isinstance(value, list | tuple):
        for item in value:  # type: ignore[reportUnknownVariableType]  # mlx-lm has no types
            _collect_arrays(item, found)
    elif isinstance(value, CacheList):
        _collect_arrays(value.caches, found)
    elif hasattr(value, "__dict__"):
        for item in vars(value).values():
            _collect_arrays(item, found)


def cache_bytes(caches: Caches) -> int:
    """Returns the bytes of all caches, phantoms included."""
    return sum(0 if cache.empty() else int(cache.nbytes) for cache in caches)


def sequence_length(caches: Caches) -> int:
    """Returns the number of tokens in one sequence's caches."""
    for cache in caches:
        leaf = cache
        while isinstance(leaf, CacheList):
            leaf = leaf.caches[0]
        offset = getattr(leaf, "offset", None)
        if isinstance(offset, int):
            return offset
    return 0


def can_batch(caches: Caches) -> bool:
    """Returns True if mlx-lm can batch these caches with those of other sequences."""
    return all(
        can_batch(list(cache.caches)) if isinstance(cache, CacheList) else hasattr(cache, "merge")
        for cache in caches
    )


def can_slice(caches: Caches) -> bool:
    """Returns True if any token range of these caches can be stored and reassembled exactly."""
    return all(type(cache) in (KVCache, QuantizedKVCache) for cache in caches)


def quantize(cache: Any, bits: int) -> Any:
    """Returns an empty quantised cache in place of an empty KVCache; others are returned as is."""
    return QuantizedKVCache(bits=bits) if type(cache) is KVCache else cache


def new_caches(model: StageModel, cache_bits: int) -> Caches:
    """Returns new, empty caches for one sequence, quantised unless ``cache_bits`` is 0."""
    caches = model.make_cache()
    if not cache_bits:
        return caches
    owned = {id(cache) for cache in model.owned_caches(caches)}
    return [quantize(c, cache_bits) if id(c) in owned else c for c in caches]


def merge_rows(rows: Sequence[Caches]) -> Caches:
    """Batches the caches of single sequences."""
    return _by_layer(rows, lambda first, others: first.merge([first, *others]))


def extend_batch(batch: Sequence[Caches]) -> Caches:
    """Appends single sequences (all items but the first) to batched caches (the first)."""

    def extend(first: Any, others: list[Any]) -> Any:
        first.extend(others[0].merge(others))
        return first

    return _by_layer(batch, extend)


def extract_row(caches: Caches, row: int, *, with_room: bool = False) -> Caches:
    """Copies one row out of batched caches.

    Args:
        with_room: allocate room for more tokens in plain KV caches.
    """
    if not with_room:
        return [cache.extract(row) for cache in caches]
    mx.eval([cache.left_padding for cache in caches if _is_plain(cache)])
    return [_extract_plain(c, row) if _is_plain(c) else c.extract(row) for c in caches]


def slice_tokens(cache: Any, start: int, stop: int) -> Any:
    """Copies tokens ``[start, stop)`` of a plain or quantised KV cache into a new cache."""
    part = copy.copy(cache)
    part.keys = _map(lambda x: mx.contiguous(x[..., start:stop, :]), cache.keys)
    part.values = _map(lambda x: mx.contiguous(x[..., start:stop, :]), cache.values)
    part.offset = stop - start
    return part


def concatenate(parts: Sequence[Any]) -> Any:
    """Joins consecutive parts into one KV cache that shares no array with them."""
    whole = copy.copy(parts[0])
    whole.keys = _join_arrays([part.keys for part in parts])
    whole.values = _join_arrays([part.values for part in parts])
    whole.offset = sum(part.offset for part in parts)
    return whole


def _by_layer(joining: Sequence[Caches], mlx_lm: Callable[[Any, list[Any]], Any]) -> Caches:
    """Joins caches layer by layer, by ``mlx_lm`` unless all of a layer are plain."""
    joined = [
        _join_plain(column) if all(map(_is_plain, column)) else mlx_lm(column[0], column[1:])
        for column in map(list, zip(*joining, strict=True))
    ]
    share_offsets(leaf for _, leaf in leaf_caches(joined))
    return joined


def _is_plain(cache: Any) -> bool:
    return type(cache) in (KVCache, BatchKVCache) and not cache.empty()


def _join_plain(caches: list[Any]) -> Any:
    """Does what mlx-lm's ``merge`` and ``extend`` do, with room for the next tokens."""
    longest = max(cache.size() for cache in caches)
    paddings = [
        cache.left_padding + (longest - cache.size())
        if isinstance(cache, BatchKVCache)
        else mx.array([longest - cache.size()])
        for cache in caches
    ]
    joined = BatchKVCache([])
    padding = mx.concatenate(paddings)
    keys = _padded([cache.keys[..., : cache.size(), :] for cache in caches])
    values = _padded([cache.values[..., : cache.size(), :] for cache in caches])
    joined.state = keys, values, longest - padding, padding, longest
    return joined


def _extract_plain(cache: Any, row: int) -> Any:
    """Does what mlx-lm's ``extract`` does, with room for the next tokens."""
    start, stop = cache.left_padding.tolist()[row], cache.size()
    extracted = KVCache()
    keys = _padded([cache.keys[row : row + 1, :, start:stop]])
    values = _padded([cache.values[row : row + 1, :, start:stop]])
    extracted.state = keys, values, stop - start
    return extracted


def _padded(parts: Sequence[mx.array]) -> mx.array:
    """Stacks the rows of keys or values (rows, heads, length, dims), padded on the left, in an
    array with room for another token."""
    longest = max(part.shape[2] for part in parts)
    room = (longest // BatchKVCache.step + 1) * BatchKVCache.step
    _, heads, _, dims = parts[0].shape
    rows = sum(part.shape[0] for part in parts)
    joined = mx.zeros((rows, heads, room, dims), dtype=parts[0].dtype)
    start = 0
    for part in parts:
        stop = start + part.shape[0]
        joined[start:stop, :, longest - part.shape[2] : longest] = part
        start = stop
    return joined


def _join_arrays(arrays: Sequence[Any]) -> Any:
    if isinstance(arrays[0], mx.array):
        return mx.concatenate(list(arrays), axis=-2)
    return tuple(_join_arrays(column) for column in zip(*arrays, strict=True))


def _map(function: Callable[[mx.array], mx.array], value: Any) -> Any:
    """Applies ``function`` to an array, or to each array of a quantised cache."""
    if isinstance(value, mx.array):
        return function(value)
    return tuple(_map(function, item) for item in value)
