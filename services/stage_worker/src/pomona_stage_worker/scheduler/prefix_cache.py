"""Which prefixes are kept, how they share storage, and which goes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pomona.messages.cache_ops import Drop, Trim


@dataclass(slots=True)
class CachedPrefix:
    """A kept prefix: the caches of all stages hold ``tokens`` from ``shared`` on."""

    number: int
    share: str
    tokens: NDArray[np.int32]
    parent: int | None
    shared: int
    used_at: int

    @property
    def stored(self) -> int:
        return len(self.tokens) - self.shared


class PrefixCache:
    """Kept prefixes, least recently used out first.

    A prefix that grew out of another stores only what is new; the other is its parent and
    stays, at least as far as it is shared, as long as the child does.

    Args:
        partial: whether the first part of a prefix can be used (plain KV caches), or only
            the whole of it (state-space and rotating caches).
    """

    def __init__(self, partial: bool, most: int = 1024) -> None:
        self.stored_tokens = 0
        self._partial = partial
        self._most = most
        self._kept: dict[int, CachedPrefix] = {}
        self._next = 1
        self._clock = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, number: int) -> bool:
        return number in self._kept

    def length(self, number: int) -> int:
        return len(self._kept[number].tokens)

    def find(self, tokens: Sequence[int], share: str) -> tuple[int, int] | None:
        """(prefix, usable length) of the longest usable one, which counts as used now.

        At least one token is always left to compute, since its logits are needed.
        """
        wanted = np.asarray(tokens[:-1], dtype=np.int32)
        best: CachedPrefix | None = None
        best_length = 0
        for kept in self._kept.values():
            if kept.share != share or min(len(kept.tokens), len(wanted)) <= best_length:
                continue
            common = _common(kept.tokens, wanted)
            if common > best_length and (self._partial or common == len(kept.tokens)):
                best, best_length = kept, common
        if best is None:
            return None
        self._touch(best)
        return best.number, best_length

    def add(
        self, tokens: Sequence[int], share: str, origin: tuple[int, int] | None
    ) -> CachedPrefix | None:
        """Keep a prefix that grew out of ``origin`` = (prefix, length), if it still can.

        None when it holds nothing that its origin does not.
        """
        parent, shared = None, 0
        if self._partial and origin is not None:
            found = self._kept.get(origin[0])
            if found is not None and len(found.tokens) >= origin[1]:
                parent, shared = origin
        if len(tokens) <= shared:
            return None
        array = np.asarray(tokens, dtype=np.int32)
        kept = CachedPrefix(self._next, share, array, parent, shared, 0)
        self._next += 1
        self._kept[kept.number] = kept
        self.stored_tokens += kept.stored
        self._touch(kept)
        return kept

    def overfull(self) -> bool:
        return len(self._kept) > self._most

    def evict(self) -> Drop | Trim | None:
        """Free the least recently used storage that no other prefix needs."""
        needed: dict[int, int] = {}
        for kept in self._kept.values():
            if kept.parent is not None:
                needed[kept.parent] = max(needed.get(kept.parent, 0), kept.shared)
        for kept in sorted(self._kept.values(), key=lambda x: x.used_at):
            if kept.number not in needed:
                del self._kept[kept.number]
                self.stored_tokens -= kept.stored
                return Drop(kept.number)
            keep = max(needed[kept.number], kept.shared + 1)
            if keep < len(kept.tokens):
                self.stored_tokens -= len(kept.tokens) - keep
                kept.tokens = kept.tokens[:keep]
                return Trim(kept.number, keep)
        return None

    def _touch(self, kept: CachedPrefix) -> None:
        self._clock += 1
        current: CachedPrefix | None = kept
        while current is not None:
            current.used_at = self._clock
            current = None if current.parent is None else self._kept[current.parent]


def _common(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    size = min(len(a), len(b))
    differs = a[:size] != b[:size]
    return int(differs.argmax()) if differs.any() else size
