"""Phantom caches: the KV caches of layers that another stage owns.

A phantom is an mlx-lm cache object whose keys and values have head dimension zero: the right
length and no memory. Masks, offsets, merge, filter, extract and trim are therefore mlx-lm's own
code. Caches advance in lockstep, so mlx-lm advances only the first phantom of a kind in each
step; the others copy its state.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, BatchKVCache, CacheList


@dataclass(frozen=True)
class Effect:
    """Effect of one layer on one of its caches in a step.

    Attributes:
        update: name of the method that appends this step's entries; None when it appends none.
        fills: the layer writes the state arrays of an `ArraysCache`.
        advances: the layer advances the position counter of an `ArraysCache`.
    """

    update: str | None = None
    fills: bool = False
    advances: bool = False


# Methods that append to a cache: keys and values with heads and a head dimension, or
# deepseek_v41's window with one feature dimension.
_UPDATES = ("update_and_fetch", "update_window")


def leaf_caches(cache: list[Any]) -> Iterator[tuple[int, Any]]:
    """Yields every cache that holds state with the index of the entry that contains it."""
    for entry, item in enumerate(cache):
        for leaf in item.caches if isinstance(item, CacheList) else (item,):
            yield entry, leaf


def update_method(cache: Any) -> str | None:
    """Returns the name of the method that appends to `cache`, or None."""
    return next((name for name in _UPDATES if hasattr(cache, name)), None)


def kind_of(cache: Any) -> tuple[Any, ...]:
    """Returns a key that is equal for two new caches of the same type and sizes."""
    sizes = sorted((k, v) for k, v in vars(cache).items() if isinstance(v, int))
    return (type(cache), *sizes)


def _least_entries(method: str, batch: int, length: int) -> tuple[mx.array, ...]:
    if method == "update_window":
        return (mx.zeros((batch, length, 0)),)
    return mx.zeros((batch, 1, length, 0)), mx.zeros((batch, 1, length, 0))


def advance(cache: Any, effect: Effect, batch: int, length: int) -> None:
    """Applies a layer's effect to its phantom for a step of (batch, length) tokens."""
    if effect.update is not None:
        getattr(cache, effect.update)(*_least_entries(effect.update, batch, length))
    if effect.fills:
        for index, state in enumerate(cache.cache):
            if state is None:
                cache[index] = mx.zeros((batch, 0))
    if effect.advances:
        cache.advance(length)


def copy_state(source: Any, target: Any) -> None:
    """Copies the state of `source` to `target`.

    Arrays become new objects, because mlx-lm changes some in place.
    """
    vars(target).update({name: _own(value) for name, value in vars(source).items()})


def _own(value: Any) -> Any:
    if isinstance(value, mx.array):
        return mx.array(value)
    return [_own(item) for item in value] if isinstance(value, list) else value


def share_offsets(leaves: Iterable[Any]) -> None:
    """Makes the batched KV caches of a lane share one array of offsets after a step.

    Each cache would otherwise run one addition kernel per layer and step. Unreferenced additions
    are never evaluated. mlx-lm rebinds the attribute at every change and never writes to the
    array, so sharing is safe.
    """
    offsets: dict[int, mx.array] = {}
    for leaf in leaves:
        if type(leaf) is BatchKVCache:
            leaf.offset = offsets.setdefault(leaf.size(), leaf.offset)


def state_arrays(cache: Any) -> list[mx.array]:
    """Returns the arrays that a cache holds, for evaluation with the step's output."""
    found: list[mx.array] = []
    for value in vars(cache).values():
        items = value if isinstance(value, list) else (value,)
        found.extend(item for item in items if isinstance(item, mx.array))
    return found


def effect_of(cache: Any, before: dict[str, Any], advances: bool, length: int) -> Effect | None:
    """Returns the effect of a step of `length` tokens on `cache`; None if it cannot be repeated.

    Args:
        before: attributes of the cache before the step.
        advances: whether the layer called `advance`.
    """
    if isinstance(cache, ArraysCache):
        filled = any(new is not old for new, old in zip(cache.cache, before["cache"], strict=True))
        return Effect(fills=filled, advances=advances)
    method = update_method(cache)
    if method is None:
        return None
    grown = vars(cache)["offset"] - before["offset"]
    if grown == 0:
        return Effect()
    return Effect(update=method) if grown == length else None
