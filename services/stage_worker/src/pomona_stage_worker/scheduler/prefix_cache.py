"""The index of cached prefixes: lookup by tokens, shared storage, LRU eviction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pomona.messages.cache_ops import Drop, Trim


@dataclass(slots=True)
class CachedPrefix:
    """A prefix whose caches every stage keeps.

    Attributes:
        tenant: owner. Other tenants do not reuse the prefix.
        tokens: token ids, int32 (n,).
        parent: prefix that stores the first ``shared`` tokens, or None.
        used_at: logical time of the last use.
    """

    number: int
    tenant: str
    tokens: NDArray[np.int32]
    parent: int | None
    shared: int
    used_at: int

    @property
    def stored(self) -> int:
        """Number of tokens in its own storage, without the parent's."""
        return len(self.tokens) - self.shared


class PrefixCache:
    """Index of the prefixes that the stages keep, with least-recently-used eviction.

    A prefix that was forked from another stores only its new tokens. The other is its parent,
    which keeps at least the shared tokens as long as the child exists.

    Args:
        partial: whether the first part of a prefix can be reused (plain KV caches), or only
            a whole one (state-space and rotating caches).
        capacity: most prefixes, whatever their length.
        block: only multiples of this many tokens are reused.
    """

    def __init__(self, partial: bool, capacity: int = 1024, block: int = 1) -> None:
        self.stored_tokens = 0
        self._block = block
        self._partial = partial
        self._capacity = capacity
        self._prefixes: dict[int, CachedPrefix] = {}
        self._next_number = 1
        self._clock = 0

    def __len__(self) -> int:
        return len(self._prefixes)

    @property
    def is_overfull(self) -> bool:
        return len(self._prefixes) > self._capacity

    def find(self, tokens: Sequence[int], tenant: str) -> tuple[int, int] | None:
        """Returns (prefix, reusable length) of the longest match and marks it as used.

        The last token never matches, since its logits have to be computed.
        """
        wanted = np.asarray(tokens[:-1], dtype=np.int32)
        best: CachedPrefix | None = None
        best_length = 0
        for prefix in self._prefixes.values():
            if prefix.tenant != tenant or min(len(prefix.tokens), len(wanted)) <= best_length:
                continue
            common = _common_length(prefix.tokens, wanted)
            common -= common % self._block
            if common > best_length and (self._partial or common == len(prefix.tokens)):
                best, best_length = prefix, common
        if best is None:
            return None
        self._touch(best)
        return best.number, best_length

    def texts(self, tenant: str) -> list[NDArray[np.int32]]:
        """Returns the tokens of a tenant's prefixes, most recently used first."""
        own = [prefix for prefix in self._prefixes.values() if prefix.tenant == tenant]
        own.sort(key=lambda prefix: prefix.used_at, reverse=True)
        return [prefix.tokens for prefix in own]

    def add(
        self, tokens: Sequence[int], tenant: str, origin: tuple[int, int] | None
    ) -> CachedPrefix | None:
        """Adds a prefix that was forked from ``origin`` = (prefix, length).

        It stores all its tokens when the origin is gone or shorter by now. Returns None when it
        has no token that its origin lacks.
        """
        parent, shared = None, 0
        if self._partial and origin is not None:
            found = self._prefixes.get(origin[0])
            if found is not None and len(found.tokens) >= origin[1]:
                parent, shared = origin
        if len(tokens) <= shared:
            return None
        array = np.asarray(tokens, dtype=np.int32)
        prefix = CachedPrefix(self._next_number, tenant, array, parent, shared, 0)
        self._next_number += 1
        self._prefixes[prefix.number] = prefix
        self.stored_tokens += prefix.stored
        self._touch(prefix)
        return prefix

    def evict(self) -> Drop | Trim | None:
        """Frees the least recently used tokens that no other prefix shares.

        Returns the op for the stages, or None when nothing can be freed.
        """
        needed: dict[int, int] = {}
        for prefix in self._prefixes.values():
            if prefix.parent is not None:
                needed[prefix.parent] = max(needed.get(prefix.parent, 0), prefix.shared)
        for prefix in sorted(self._prefixes.values(), key=lambda x: x.used_at):
            if prefix.number not in needed:
                del self._prefixes[prefix.number]
                self.stored_tokens -= prefix.stored
                return Drop(prefix.number)
            keep = max(needed[prefix.number], prefix.shared + 1)
            if keep < len(prefix.tokens):
                self.stored_tokens -= len(prefix.tokens) - keep
                prefix.tokens = prefix.tokens[:keep]
                return Trim(prefix.number, keep)
        return None

    def _touch(self, prefix: CachedPrefix) -> None:
        self._clock += 1
        current: CachedPrefix | None = prefix
        while current is not None:
            current.used_at = self._clock
            current = None if current.parent is None else self._prefixes[current.parent]


def _common_length(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    size = min(len(a), len(b))
    differs = a[:size] != b[:size]
    return int(differs.argmax()) if differs.any() else size
