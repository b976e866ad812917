"""How long a stage's steps take: what the planner compares with its prediction."""

from __future__ import annotations

from pomona.messages.data import Step

_WEIGHT = 0.1
_LONGEST_PAUSE = 5.0
"""A token that took this many times the usual was not decoded without a pause."""


class Timing:
    """Moving averages of one stage, in microseconds. Used by the step thread only.

    Attributes:
        decode_us: of a step of one token of one sequence, here.
        prefill_us: of a prompt token in a long chunk, here.
        token_us: on the head, from one token of a lone sequence to its next, the whole way
            round.
    """

    def __init__(self) -> None:
        self.decode_us = 0.0
        self.prefill_us = 0.0
        self.token_us = 0.0
        self._last: tuple[tuple[int, ...], int] | None = None

    def observe(
        self, step: Step, shape: tuple[int, ...], begin_ns: int, elapsed_us: int, alone: bool
    ) -> None:
        """Take in a step. Args: alone: no other request is running (the head knows)."""
        if not step.rows or len(shape) != 2:
            return
        rows, tokens = shape
        single = rows == 1 and tokens == 1 and step.sample
        if single:
            self.decode_us = _blend(self.decode_us, elapsed_us)
        elif rows == 1 and tokens >= 64:
            self.prefill_us = _blend(self.prefill_us, elapsed_us / tokens)
        if single and alone and self._last is not None and self._last[0] == step.rows:
            whole_us = (begin_ns - self._last[1]) / 1000
            if self.token_us == 0.0 or whole_us < _LONGEST_PAUSE * self.token_us:
                self.token_us = _blend(self.token_us, whole_us)
        self._last = (step.rows, begin_ns) if single and alone else None


def _blend(old: float, new: float) -> float:
    return new if old == 0.0 else old + _WEIGHT * (new - old)
