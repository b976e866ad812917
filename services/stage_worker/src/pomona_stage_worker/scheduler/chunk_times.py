"""Bounds the time of a prefill chunk by what chunks at similar contexts took.

Attention makes a token of a chunk cost more the longer its context is, in proportion. Times are
therefore kept by context, in classes of powers of two, and continued on the line through the two
nearest.
"""

from __future__ import annotations

from typing import Final

LEAST_TOKENS: Final = 16
"""Fewest tokens of a chunk, whatever it takes: the prompt must go on."""
COMPARABLE: Final = 4
"""Ratio of contexts up to which one measurement says something about another context."""


class ChunkTimes:
    """The latest time of a token in a chunk, by context."""

    def __init__(self) -> None:
        self._token_us: dict[int, tuple[int, float]] = {}

    def observe(self, tokens: int, end: int, took_us: float) -> None:
        """Records a chunk.

        Args:
            end: context at the end of the chunk, tokens.
            took_us: its time in the slowest stage, microseconds, less that of reading the weights.
        """
        if tokens:
            self._token_us[end.bit_length()] = (end, max(took_us, 0.0) / tokens)

    def tokens_within(self, chunk_us: float, begin: int, most: int, least: int) -> int:
        """Returns the tokens of a chunk that take at most ``chunk_us``, at most ``most``.

        Args:
            chunk_us: microseconds without those of reading the weights; 0 for no limit.
            begin: context before the chunk, tokens.
            least: tokens of a chunk at an unknown context.
        """
        if chunk_us <= 0:
            return most
        token_us = self._at(begin + most)
        if token_us is None:
            return min(most, least)
        within = int(chunk_us / token_us) if token_us else most
        return min(most, max(LEAST_TOKENS, within))

    def _at(self, end: int) -> float | None:
        """Returns the time of a token in a chunk that ends at ``end``; None when it is unknown."""
        known = sorted(self._token_us.values())
        below = [(at, us) for at, us in known if at <= end]
        if not below:
            # A longer context costs at least as much.
            return known[0][1] if known and known[0][0] <= COMPARABLE * end else None
        at, token_us = below[-1]
        if len(below) > 1:
            before, us_before = below[-2]
            slope = (token_us - us_before) / (at - before)
            return token_us + max(slope, 0.0) * (end - at)
        return token_us * end / at if end <= COMPARABLE * at else None
