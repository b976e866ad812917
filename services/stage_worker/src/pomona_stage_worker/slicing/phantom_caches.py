"""Phantom caches: the caches of layers that another stage owns.

A phantom is one of mlx-lm's own cache objects, so every mask, offset, merge, filter,
extract and trim is mlx-lm's own code. It holds keys and values of head dimension zero:
they have the right length and take no memory. Caches advance in lockstep, so only the
first phantom of a kind in a step is advanced by mlx-lm; the others copy its state.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, BatchKVCache, CacheList


@dataclass(frozen=True)
class Effect:
    """What one layer does to one of its caches in a step.

    Attributes:
        update: the method that appends this step's entries, if the layer appends any.
        fills: the layer writes the state arrays of an `ArraysCache`.
        advances: the layer tells an `ArraysCache` how many positions have passed.
    """

    update: str | None = None
    fills: bool = False
    advances: bool = False


# The methods that append to a cache, and the shape of the least entry for each: heads and
# head dimension for keys and values, one dimension for deepseek_v41's window.
_UPDATES = ("update_and_fetch", "update_window")


def leaf_caches(cache: list[Any]) -> Iterator[tuple[int, Any]]:
    """Every cache that holds state, with the index of the entry it is in."""
    for entry, item in enumerate(cache):
        for leaf in item.caches if isinstance(item, CacheList) else (item,):
            yield entry, leaf


def update_method(cache: Any) -> str | None:
    """The name of the method that appends to `cache`, if it is one that grows."""
    return next((name for name in _UPDATES if hasattr(cache, name)), None)


def kind_of(cache: Any) -> tuple[Any, ...]:
    """Equal for two new caches that behave alike when they are used alike."""
    sizes = sorted((k, v) for k, v in vars(cache).items() if isinstance(v, int))
    return (type(cache), *sizes)


def _least_entries(method: str, batch: int, length: int) -> tuple[mx.array, ...]:
    if method == "update_window":
        return (mx.zeros((batch, length, 0)),)
    return mx.zeros((batch, 1, length, 0)), mx.zeros((batch, 1, length, 0))


def advance(cache: Any, effect: Effect, batch: int, length: int) -> None:
    """Do to a phantom what its layer would do to it in a step of (batch, length) tokens."""
    if effect.update is not None:
        getattr(cache, effect.update)(*_least_entries(effect.update, batch, length))
    if effect.fills:
        for index, state in enumerate(cache.cache):
            if state is None:
                cache[index] = mx.zeros((batch, 0))
    if effect.advances:
        cache.advance(length)


def copy_state(source: Any, target: Any) -> None:
    """Make `target` equal to `source`. Arrays become objects of their own, because mlx-lm
    changes some of them in place."""

    def own(value: Any) -> Any:
        if isinstance(value, mx.array):
            return mx.array(value)
        return [own(item) for item in value] if isinstance(value, list) else value

    vars(target).update({name: own(value) for name, value in vars(source).items()})


def share_offsets(leaves: Iterable[Any]) -> None:
    """Let the batched KV caches of a lane have one array of offsets, after a step.

    They advance in lockstep, but each adds to an array of its own: a kernel a layer and step.
    What the others would add is not computed when nothing refers to it. mlx-lm binds that
    attribute anew at every change, and never changes the array.
    """
    offsets: dict[int, mx.array] = {}
    for leaf in leaves:
        if type(leaf) is BatchKVCache:
            leaf.offset = offsets.setdefault(leaf.size(), leaf.offset)


def state_arrays(cache: Any) -> list[mx.array]:
    """The arrays a cache holds, so that they can be evaluated before they pile up."""
    found: list[mx.array] = []
    for value in vars(cache).values():
        items = value if isinstance(value, list) else (value,)
        found.extend(item for item in items if isinstance(item, mx.array))
    return found


def effect_of(cache: Any, before: dict[str, Any], advances: bool, length: int) -> Effect | None:
    """What a step of `length` tokens did to `cache`, whose attributes were `before`.
    None when it is nothing a phantom could repeat."""
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
