"""Guesses that a text goes on as it did before: prompt lookup.

The last tokens of a sequence are looked up in its own prompt and reply, in the client's predicted
reply, and in the tenant's cached prefixes, which hold recent prompts and replies. The longest match
wins, and the tokens after it are the guesses. The lookup compares whole arrays at once, so that
nothing but the tokens themselves is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pomona_stage_worker.speculation.draft import Proposal

Tokens: TypeAlias = NDArray[np.int32]

MIN_MATCH = 3
"""Fewest tokens that must match. Two are often a common phrase with another continuation."""
MAX_MATCH = 32
"""Most tokens that are compared."""
MAX_HITS = 4096
"""Places of the last token that are compared, the latest ones."""
MAX_SEARCHED = 1 << 16
"""Most tokens of cached prefixes that one lookup searches, most recently used first."""
AFTER_EDIT = 8
"""Tokens by which a text may have been shifted after it left the one it followed."""
_LONG, _MEDIUM = 16, 6

NAME = "suffix"


class SuffixSource:
    """Looks up the end of a sequence in texts that are known.

    Args:
        prefixes: returns the cached prefixes of a tenant, most recently used first.
    """

    name = NAME
    guess_us = 0.0
    failure = ""
    priors = (0.3, 0.4, 0.6, 0.85)
    """After an edit; matches of at least ``MIN_MATCH``, 6 and 16 tokens."""

    def __init__(self, prefixes: Callable[[str], Sequence[Tokens]]) -> None:
        self._prefixes = prefixes

    def drafter(
        self, seq: int, tenant: str, prompt: int, prediction: Sequence[int]
    ) -> SuffixDrafter:
        return SuffixDrafter(lambda: self._prefixes(tenant), prediction)


class SuffixDrafter:
    """Follows the text that the sequence repeats."""

    offers = 0

    def __init__(
        self, prefixes: Callable[[], Sequence[Tokens]], prediction: Sequence[int] = ()
    ) -> None:
        self._prefixes = prefixes
        self._own = _GrowingTokens()
        self._prediction = np.asarray(prediction, dtype=np.int32)
        self._text: Tokens | None = None
        self._next = 0
        self._matched = 0
        # The place in a text at which the sequence left it; a predicted reply begins at 0.
        self._left: tuple[Tokens, int] | None = None
        if len(prediction):
            self._left = self._prediction, 0

    def propose(self, tokens: Sequence[int], guesses: Sequence[int], count: int) -> list[Proposal]:
        follows_own = self._text is self._own.array
        self._own.extend(tokens)
        if follows_own:
            self._text = self._own.array
        if self._text is None or self._next >= self._end:
            self._find([*tokens[-MAX_MATCH:], *guesses][-MAX_MATCH:])
        if self._text is None:
            return []
        found = self._text[self._next : min(self._next + count, self._end)].tolist()
        self._next += len(found)
        proposals = [Proposal(int(t), NAME, self._confidence(n)) for n, t in enumerate(found)]
        self._matched += len(found)
        return proposals

    def missed(self) -> None:
        if self._text is not None:
            self._left = self._text, self._next
        self._text = None

    def close(self) -> None: ...

    @property
    def _end(self) -> int:
        """Length of the text that is followed; its own grows."""
        if self._text is self._own.array:
            return len(self._own)
        return 0 if self._text is None else len(self._text)

    def _confidence(self, after: int) -> int:
        matched = self._matched + after
        return (matched >= MIN_MATCH) + (matched >= _MEDIUM) + (matched >= _LONG)

    def _find(self, suffix: Sequence[int]) -> None:
        """Finds the place to follow, if there is one."""
        self._text, best = None, MIN_MATCH - 1
        searched = 0
        texts = [self._own.tokens, self._prediction]
        for text in (*texts, *self._prefixes()):
            searched += len(text)
            place, matched = longest_match(text, suffix)
            if matched > best:
                own = text is texts[0]
                self._text, self._next, best = self._own.array if own else text, place, matched
            if best >= MAX_MATCH or searched > MAX_SEARCHED:
                break
        self._matched = best if self._text is not None else 0
        if self._text is None:
            self._resume(suffix)
        self._left = None if self._text is not None else self._left

    def _resume(self, suffix: Sequence[int]) -> None:
        """Goes on near the place where the sequence left the text it followed: a word was replaced,
        added or left out."""
        if self._left is None:
            return
        text, place = self._left
        first = max(place - AFTER_EDIT, 0)
        near = text[first : place + AFTER_EDIT]
        hits = np.flatnonzero(near == suffix[-1]) + first + 1
        hits = hits[hits < len(text)]
        if len(hits):
            self._text = text
            self._next = int(hits[np.abs(hits - place).argmin()])


def longest_match(text: Tokens, suffix: Sequence[int]) -> tuple[int, int]:
    """Returns (place after the match, matched tokens) for the longest end of ``suffix`` in
    ``text`` that another token follows. The latest of equal ones wins; (0, 0) is none."""
    places = np.flatnonzero(text[:-1] == suffix[-1])[-MAX_HITS:]
    matched = 0
    while len(places):
        matched += 1
        best = int(places[-1]) + 1
        if matched == len(suffix):
            return best, matched
        places = places[places >= matched]
        places = places[text[places - matched] == suffix[-1 - matched]]
        if not len(places):
            return best, matched
    return 0, 0


class _GrowingTokens:
    """An array of a sequence's tokens, extended as they come."""

    def __init__(self) -> None:
        self.array: Tokens = np.zeros(0, dtype=np.int32)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def tokens(self) -> Tokens:
        return self.array[: self._length]

    def extend(self, tokens: Sequence[int]) -> None:
        """Takes over the tokens that are not here yet."""
        length = len(tokens)
        if length > len(self.array):
            larger = np.zeros(max(256, 2 * length), dtype=np.int32)
            larger[: self._length] = self.tokens
            self.array = larger
        self.array[self._length : length] = tokens[self._length :]
        self._length = length
