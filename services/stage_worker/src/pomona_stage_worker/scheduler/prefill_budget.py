"""How long steps take, and how much prompt fits between the steps of running streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

_WEIGHT = 0.2
_GUESSED_TOKENS = 32
_MOST_TOKENS = 2.0**31
_OVERDRAFT = 1.25
"""Of the longest chunk: the rest of a prompt that is within it goes at once. Each part of it
would read all weights once more, and its user would wait for that."""


class PrefillBudget:
    """Learns the cost of steps from the compute times that the stages report.

    A chunk of n tokens takes about ``fixed + n * per_token`` in the slowest stage, where
    ``fixed`` is what a step of one token takes there: reading all weights once. A chunk is
    charged what it should cost when it goes, and what it did cost when it is done.

    Streams are to come at most ``1 + share`` times slower while a prompt is read. A step that
    follows a chunk through the pipeline waits for it in every stage: so no chunk takes longer
    than ``(1 + share) * fixed`` in one. And in the time in which all lanes step once, a stage
    has that much time for each stage there is, less what the lanes' own steps take: so much
    time may all chunks have.

    Args:
        share: how much slower streams may become; 0.7 is by 70 %.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._cycle_us = 0.0
        self._fixed_us = 0.0
        self._over_us = 0.0
        self._over_tokens = 0.0
        self._credit_us = 0.0
        self._charged_us: deque[float | None] = deque()

    @property
    def cycle_us(self) -> float:
        """Compute time of one decode step over all stages; 0 before one was seen."""
        return self._cycle_us

    def observe_decode(self, elapsed_us: Sequence[int]) -> None:
        self._cycle_us = _blend(self._cycle_us, sum(elapsed_us))
        self._fixed_us = _blend(self._fixed_us, max(elapsed_us))

    def observe_chunk(self, tokens: int, elapsed_us: Sequence[int]) -> None:
        """The oldest chunk that was issued is done. Longer chunks tell more of a token's cost,
        and none tells anything before ``fixed`` is known."""
        took = max(elapsed_us)
        charged = self._charged_us.popleft()
        if charged is not None:
            self._credit_us += charged - took
        if self._fixed_us:
            self._over_us += max(took - self._fixed_us, 0.0) - _WEIGHT * self._over_us
            self._over_tokens += tokens - _WEIGHT * self._over_tokens

    def decode_issued(self, lanes: int) -> None:
        """A lane has stepped: chunks may take their time until it steps again."""
        steps_us = lanes * self._fixed_us
        cycle_us = (1 + self._share) * max(self._cycle_us, steps_us) - steps_us
        if lanes == 1 and cycle_us > self._longest_us:
            # A part of a chunk would still be in the first stage when the lane is back.
            cycle_us -= cycle_us % self._longest_us
        most = max(cycle_us, self._longest_us)
        self._credit_us = min(self._credit_us + cycle_us / lanes, most)

    def chunk_issued(self, tokens: int, beside_streams: bool) -> None:
        """A chunk goes; one that no stream waits for is free."""
        cost = self._cost_us(tokens) if beside_streams else None
        self._credit_us -= cost or 0.0
        self._charged_us.append(cost)

    def affordable(self, most: int, is_rest: bool = False) -> int:
        """Tokens of the chunk that may go now, beside running streams; 0 for none.

        Half of the longest chunk is the least that is worth reading all weights for.

        Args:
            is_rest: whether the prompt is read when ``most`` tokens are.
        """
        if self._cycle_us == 0.0 or self._per_token_us == 0.0:
            return min(most, _GUESSED_TOKENS)
        if is_rest and self._cost_us(most) <= _OVERDRAFT * min(self._credit_us, self._longest_us):
            return most
        longest = max(self._tokens_in(self._longest_us), 1)
        whole = self._credit_us >= self._longest_us
        tokens = longest if whole else self._tokens_in(self._credit_us)
        return min(tokens, most) if 2 * tokens >= longest else 0

    @property
    def _longest_us(self) -> float:
        return (1 + self._share) * self._fixed_us

    def _tokens_in(self, us: float) -> int:
        return int(min((us - self._fixed_us) / self._per_token_us, _MOST_TOKENS))

    def _cost_us(self, tokens: int) -> float:
        return self._fixed_us + tokens * self._per_token_us

    @property
    def _per_token_us(self) -> float:
        return self._over_us / self._over_tokens if self._over_tokens else 0.0


def _blend(old: float, new: float) -> float:
    return new if old == 0.0 else old + _WEIGHT * (new - old)
