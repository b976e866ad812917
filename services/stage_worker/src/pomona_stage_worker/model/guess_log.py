"""Undoes guessed steps in the caches of a lane of one row.

Before each guessed step the log notes how to undo it. Plain and quantised KV caches are trimmed:
the next token overwrites the removed ones. Of any other cache the log keeps the attributes before
the step. Arrays are immutable in MLX, so state-space caches cost no copy; a rotating cache, which
is otherwise updated in place, costs a copy of its window for each guessed step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ConcatenateKVCache, KVCache, QuantizedKVCache

from pomona.messages.limits import MAX_STAGES
from pomona_stage_worker.model.layer_caches import Caches
from pomona_stage_worker.slicing.phantom_caches import leaf_caches

MAX_ENTRIES = MAX_STAGES + 1
"""Guessed steps that can be undone. The head has at most one in flight for each stage."""
_TRIMMED = (KVCache, QuantizedKVCache, ConcatenateKVCache)


def can_roll_back(caches: Caches) -> bool:
    """Returns True if every cache can be restored exactly: its attributes are arrays, plain values
    or collections of these."""
    return all(_is_restorable(list(vars(leaf).values())) for _, leaf in leaf_caches(caches))


def can_trim(caches: Caches) -> bool:
    """Returns True if any number of tokens can be removed from the end of every cache."""
    return all(type(leaf) in _TRIMMED for _, leaf in leaf_caches(caches))


class CacheSnapshot:
    """The state of caches, for rollback. While it exists, no cache is updated in place."""

    def __init__(self, caches: Caches) -> None:
        self.states = [(leaf, _new_handles(vars(leaf))) for _, leaf in leaf_caches(caches)]

    def restore(self) -> None:
        for leaf, state in self.states:
            _restore(leaf, state)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A guessed step of ``length`` tokens from ``position`` on.

    Attributes:
        offsets: offset of each trimmed cache before the step.
        states: attributes of each other cache before the step.
    """

    position: int
    length: int
    offsets: list[tuple[Any, int]]
    states: list[tuple[Any, dict[str, Any]]]


class GuessLog:
    """The guessed steps of a lane that are not confirmed yet, oldest first."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def clear(self) -> None:
        """Forgets all steps; they are confirmed."""
        self._entries.clear()

    def add(
        self,
        caches: Caches,
        position: int,
        length: int,
        confirmed: int,
        before: CacheSnapshot | None = None,
    ) -> None:
        """Notes how to undo a step, before its graph is built.

        Args:
            position, length: position of its first token and number of its tokens.
            confirmed: tokens of the sequence that are known to be right.
            before: the caches before the step, if its graph is built already.
        """
        self._entries = [e for e in self._entries if e.position + e.length > confirmed]
        if before is None:
            leaves = [leaf for _, leaf in leaf_caches(caches)]
            states = [
                (x, vars(x) if type(x) in _TRIMMED else _new_handles(vars(x))) for x in leaves
            ]
        else:
            states = before.states
        offsets = [(leaf, state["offset"]) for leaf, state in states if type(leaf) in _TRIMMED]
        others = [(leaf, state) for leaf, state in states if type(leaf) not in _TRIMMED]
        self._entries.append(_Entry(position, length, offsets, others))
        del self._entries[:-MAX_ENTRIES]

    def undoes(self, length: int) -> bool:
        """Returns True if a rollback to ``length`` tokens changes the caches."""
        return any(entry.position + entry.length > length for entry in self._entries)

    def rollback(self, length: int) -> None:
        """Removes all but the first ``length`` tokens.

        Raises ValueError if ``length`` is inside a step whose caches cannot be trimmed.
        """
        undone = [entry for entry in self._entries if entry.position + entry.length > length]
        self._entries.clear()
        if not undone:
            return
        first = undone[0]
        kept = length - first.position
        if kept < 0 or (kept and first.states):
            raise ValueError(f"cannot roll back to {length} from a step at {first.position}")
        for leaf, offset in first.offsets:
            excess = leaf.offset - offset - kept
            if excess > 0:
                leaf.trim(excess)
        for leaf, state in first.states:
            _restore(leaf, state)


def _restore(leaf: Any, state: dict[str, Any]) -> None:
    vars(leaf).clear()
    vars(leaf).update(state)


def _new_handles(value: Any) -> Any:
    """Wraps the same arrays in new objects: mlx-lm assigns into the objects it has."""
    if isinstance(value, mx.array):
        return mx.array(value)
    if isinstance(value, dict):
        return {key: _new_handles(item) for key, item in value.items()}  # type: ignore[reportUnknownVariableType]  # mlx-lm has no types
    if isinstance(value, list | tuple):
        items: list[Any] = [_new_handles(item) for item in value]  # type: ignore[reportUnknownVariableType]  # mlx-lm has no types
        return items if isinstance(value, list) else tuple(items)
    return value


def _is_restorable(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_restorable, value))  # type: ignore[reportUnknownArgumentType]  # mlx-lm has no types
    return value is None or isinstance(value, mx.array | int | float | bool | str)
