"""How long a stage's steps take: what the planner compares with its prediction."""

from __future__ import annotations

from collections import deque
from statistics import median

from pomona.messages.data import Step

WINDOW = 48
"""Values whose median is told: a pause, or a first step that compiles, does not bend it."""


class Timing:
    """Medians of one stage's newest steps, in microseconds. Written by the step thread only.

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
        self._decodes: deque[float] = deque(maxlen=WINDOW)
        self._prefills: deque[float] = deque(maxlen=WINDOW)
        self._tokens: deque[float] = deque(maxlen=WINDOW)
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
            self._decodes.append(elapsed_us)
            self.decode_us = median(self._decodes)
        elif rows == 1 and tokens >= 64:
            self._prefills.append(elapsed_us / tokens)
            self.prefill_us = median(self._prefills)
        if single and alone and self._last is not None and self._last[0] == step.rows:
            self._tokens.append((begin_ns - self._last[1]) / 1000)
            self.token_us = median(self._tokens)
        self._last = (step.rows, begin_ns) if single and alone else None
