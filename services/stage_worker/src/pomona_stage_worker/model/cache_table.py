"""The caches of one stage: sequences, kept prefixes and lanes, changed only by ops.

Every stage applies the same ops in the same order, so all their tables agree;
:meth:`CacheTable.table` is what the agreement check compares.

A lane of one row keeps that row's own cache; only a second row makes a batch of it, with
mlx-lm's batched caches (left padding). A kept prefix stores only the part that its parent
does not have, when all caches are plain KV caches; else it is a whole snapshot.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache, QuantizedKVCache

from pomona.errors import PomonaError
from pomona.messages.cache_ops import Close, Drop, Fork, Join, Leave, Op, Open, Trim
from pomona_stage_worker.slicing.phantom_caches import leaf_caches, share_offsets

Caches: TypeAlias = list[Any]
"""One mlx-lm cache per layer, phantoms included."""


class CacheTableError(PomonaError):
    """An op does not fit the table: the stages no longer agree, and the epoch must end."""


@dataclass(slots=True)
class Lane:
    """Rows that step together. ``caches`` are batched when there are two rows or more."""

    rows: list[int]
    caches: Caches


@dataclass(frozen=True, slots=True)
class Prefix:
    """A kept prefix of ``length`` tokens, of which ``caches`` hold those from ``shared`` on."""

    caches: Caches
    length: int
    shared: int
    parent: int | None


@dataclass(slots=True)
class CacheTable:
    """Args: make: new empty caches for one sequence."""

    make: Callable[[], Caches]
    sequences: dict[int, Caches] = field(default_factory=dict[int, Caches])
    lanes: dict[int, Lane] = field(default_factory=dict[int, Lane])
    prefixes: dict[int, Prefix] = field(default_factory=dict[int, Prefix])

    def apply(self, op: Op) -> None:
        """Change the table. Raises CacheTableError when the op does not fit it."""
        try:
            match op:
                case Open():
                    self._refuse(op.seq in self.sequences, f"sequence {op.seq} is open")
                    self.sequences[op.seq] = self.make()
                case Fork():
                    self.sequences[op.seq] = self._restore(op.prefix, op.length)
                case Trim():
                    self._trim(op.prefix, op.length)
                case Close():
                    self._close(op)
                case Drop():
                    del self.prefixes[op.prefix]
                case Join():
                    self._join(op.lane, op.seqs)
                case Leave():
                    self._leave(op.lane, op.seqs)
        except KeyError as error:
            raise CacheTableError(f"{op} names {error}, which this stage does not hold") from error

    def table(self) -> dict[str, Any]:
        """What all stages must agree on: who is where, and how long."""
        return {
            "sequences": {seq: sequence_length(caches) for seq, caches in self.sequences.items()},
            "lanes": {number: tuple(lane.rows) for number, lane in self.lanes.items()},
            "prefixes": {
                number: (prefix.length, prefix.shared, prefix.parent)
                for number, prefix in self.prefixes.items()
            },
        }

    def nbytes(self) -> int:
        """Bytes of all caches, phantoms included."""
        return sum(_nbytes(cache) for caches in self._all() for cache in caches)

    def arrays(self) -> list[mx.array]:
        """Every array held, to be evaluated now and then so that no lazy graph grows."""
        return [array for caches in self._all() for array in cache_arrays(caches)]

    def _all(self) -> list[Caches]:
        return [
            *self.sequences.values(),
            *(lane.caches for lane in self.lanes.values()),
            *(prefix.caches for prefix in self.prefixes.values()),
        ]

    def _join(self, number: int, seqs: Sequence[int]) -> None:
        joining = [self.sequences.pop(seq) for seq in seqs]
        lane = self.lanes.get(number)
        if lane is None:
            caches = joining[0] if len(joining) == 1 else _merge(joining)
            self.lanes[number] = Lane(list(seqs), caches)
            return
        merge = _merge if len(lane.rows) == 1 else _extend
        lane.caches = merge([lane.caches, *joining])
        lane.rows.extend(seqs)

    def _leave(self, number: int, seqs: Sequence[int]) -> None:
        lane = self.lanes[number]
        for seq in seqs:
            self._refuse(seq not in lane.rows, f"sequence {seq} is not in lane {number}")
        if len(lane.rows) == 1:
            self.sequences[lane.rows[0]] = lane.caches
            del self.lanes[number]
            return
        for seq in seqs:
            self.sequences[seq] = _extract(lane.caches, lane.rows.index(seq))
        rest = [row for row in lane.rows if row not in seqs]
        if not rest:
            del self.lanes[number]
        elif len(rest) == 1:
            caches = _extract(lane.caches, lane.rows.index(rest[0]), with_room=True)
            self.lanes[number] = Lane(rest, caches)
        else:
            keep = mx.array([lane.rows.index(row) for row in rest])
            for cache in lane.caches:
                cache.filter(keep)
            lane.rows = rest

    def _close(self, op: Close) -> None:
        caches = self.sequences.pop(op.seq)
        if op.keep is None:
            return
        self._refuse(op.keep in self.prefixes, f"prefix {op.keep} exists")
        if op.parent is not None:
            self._refuse(op.parent not in self.prefixes, f"prefix {op.parent} is gone")
            caches = [_slice(cache, op.shared, op.length) for cache in caches]
        self.prefixes[op.keep] = Prefix(caches, op.length, op.shared, op.parent)

    def _trim(self, number: int, length: int) -> None:
        old = self.prefixes[number]
        caches = [_slice(cache, 0, length - old.shared) for cache in old.caches]
        self.prefixes[number] = Prefix(caches, length, old.shared, old.parent)

    def _restore(self, number: int, length: int) -> Caches:
        """New caches with the first ``length`` tokens of a prefix."""
        parts: list[Caches] = []
        prefix = self.prefixes[number]
        end = length
        if prefix.parent is None and end == prefix.length:
            return copy.deepcopy(prefix.caches)
        while True:
            if end > prefix.shared:
                parts.append([_slice(cache, 0, end - prefix.shared) for cache in prefix.caches])
            if prefix.parent is None:
                break
            end = min(end, prefix.shared)
            prefix = self.prefixes[prefix.parent]
        parts.reverse()
        return [_concatenate(pieces) for pieces in zip(*parts, strict=True)]

    @staticmethod
    def _refuse(condition: bool, what: str) -> None:
        if condition:
            raise CacheTableError(f"{what}: the stages no longer agree")


def cache_arrays(caches: Caches) -> list[mx.array]:
    """The arrays inside caches, however nested."""
    found: list[mx.array] = []

    def walk(value: Any) -> None:
        if isinstance(value, mx.array):
            found.append(value)
        elif isinstance(value, list | tuple):
            for item in value:  # type: ignore[reportUnknownVariableType]  # mlx-lm has no types
                walk(item)
        elif isinstance(value, CacheList):
            walk(value.caches)
        elif hasattr(value, "__dict__"):
            for item in vars(value).values():
                walk(item)

    walk(caches)
    return found


def sequence_length(caches: Caches) -> int:
    """Tokens in the caches of one sequence."""
    for cache in caches:
        leaf = cache
        while isinstance(leaf, CacheList):
            leaf = leaf.caches[0]
        offset = getattr(leaf, "offset", None)
        if isinstance(offset, int):
            return offset
    return 0


def can_batch(caches: Caches) -> bool:
    """Whether mlx-lm can join these caches with those of other sequences."""
    return all(
        can_batch(list(cache.caches)) if isinstance(cache, CacheList) else hasattr(cache, "merge")
        for cache in caches
    )


def can_slice(caches: Caches) -> bool:
    """Whether any part of these caches can be kept and put together again exactly."""
    return all(type(cache) in (KVCache, QuantizedKVCache) for cache in caches)


def quantize(cache: Any, bits: int) -> Any:
    """An empty cache with quantised keys and values, where mlx-lm has one of its kind."""
    return QuantizedKVCache(bits=bits) if type(cache) is KVCache else cache


def _nbytes(cache: Any) -> int:
    return 0 if cache.empty() else int(cache.nbytes)


def _merge(rows: Sequence[Caches]) -> Caches:
    """One sequence's caches and others', as a lane."""
    return _by_layer(rows, lambda first, others: first.merge([first, *others]))


def _extend(lane: Sequence[Caches]) -> Caches:
    """A lane's caches, and other sequences' as more rows of it."""

    def extend(first: Any, others: list[Any]) -> Any:
        first.extend(others[0].merge(others))
        return first

    return _by_layer(lane, extend)


def _by_layer(joining: Sequence[Caches], mlx_lm: Callable[[Any, list[Any]], Any]) -> Caches:
    joined = [
        _join_plain(column) if all(map(_is_plain, column)) else mlx_lm(column[0], column[1:])
        for column in map(list, zip(*joining, strict=True))
    ]
    share_offsets(leaf for _, leaf in leaf_caches(joined))
    return joined


def _is_plain(cache: Any) -> bool:
    return type(cache) in (KVCache, BatchKVCache) and not cache.empty()


def _join_plain(caches: list[Any]) -> Any:
    """What mlx-lm's ``merge`` and ``extend`` make, with room for the next tokens: they leave none,
    and the first step would copy all again to make it."""
    longest = max(cache.size() for cache in caches)
    paddings = [
        cache.left_padding + (longest - cache.size())
        if isinstance(cache, BatchKVCache)
        else mx.array([longest - cache.size()])
        for cache in caches
    ]
    joined = BatchKVCache([])
    padding = mx.concatenate(paddings)
    keys = _with_room([cache.keys[..., : cache.size(), :] for cache in caches])
    values = _with_room([cache.values[..., : cache.size(), :] for cache in caches])
    joined.state = keys, values, longest - padding, padding, longest
    return joined


def _with_room(parts: Sequence[mx.array]) -> mx.array:
    """Keys or values (rows, heads, length, dims) of all rows, padded on the left, in an array that
    tokens can be added to."""
    longest = max(part.shape[2] for part in parts)
    room = (longest // BatchKVCache.step + 1) * BatchKVCache.step
    _, heads, _, dims = parts[0].shape
    rows = sum(part.shape[0] for part in parts)
    joined = mx.zeros((rows, heads, room, dims), dtype=parts[0].dtype)
    begin = 0
    for part in parts:
        end = begin + part.shape[0]
        joined[begin:end, :, longest - part.shape[2] : longest] = part
        begin = end
    return joined


def _extract(caches: Caches, row: int, *, with_room: bool = False) -> Caches:
    """Args: with_room: for more tokens, where caches are plain."""
    if not with_room:
        return [cache.extract(row) for cache in caches]
    mx.eval([cache.left_padding for cache in caches if _is_plain(cache)])
    return [_extract_plain(c, row) if _is_plain(c) else c.extract(row) for c in caches]


def _extract_plain(cache: Any, row: int) -> Any:
    """What mlx-lm's ``extract`` makes, with room for the next tokens."""
    begin, end = cache.left_padding.tolist()[row], cache.size()
    alone = KVCache()
    keys = _with_room([cache.keys[row : row + 1, :, begin:end]])
    values = _with_room([cache.values[row : row + 1, :, begin:end]])
    alone.state = keys, values, end - begin
    return alone


def _slice(cache: Any, begin: int, end: int) -> Any:
    """Tokens ``[begin, end)`` of a KV cache, as a cache of their own."""
    part = copy.copy(cache)
    part.keys = _map(lambda x: mx.contiguous(x[..., begin:end, :]), cache.keys)
    part.values = _map(lambda x: mx.contiguous(x[..., begin:end, :]), cache.values)
    part.offset = end - begin
    return part


def _concatenate(parts: Sequence[Any]) -> Any:
    """One KV cache out of consecutive parts, none of whose arrays it shares."""
    whole = copy.copy(parts[0])
    whole.keys = _join_arrays([part.keys for part in parts])
    whole.values = _join_arrays([part.values for part in parts])
    whole.offset = sum(part.offset for part in parts)
    return whole


def _join_arrays(arrays: Sequence[Any]) -> Any:
    if isinstance(arrays[0], mx.array):
        return mx.concatenate(list(arrays), axis=-2)
    return tuple(_join_arrays(column) for column in zip(*arrays, strict=True))


def _map(function: Callable[[mx.array], mx.array], value: Any) -> Any:
    """Apply to an array, or to each of a quantised cache's arrays."""
    if isinstance(value, mx.array):
        return function(value)
    return tuple(_map(function, item) for item in value)
