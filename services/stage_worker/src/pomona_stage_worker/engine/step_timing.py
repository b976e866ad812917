"""How long a stage's steps take: what the planner compares with its prediction."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

from pomona.messages.pipeline import Step
from pomona_stage_worker.model.warmup import NO_WARMUP, WarmupTiming

WINDOW = 48
"""Values whose median is told: a pause, or a first step that compiles, does not bend it."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that has run here. Moments are nanoseconds of time.monotonic_ns().

    Attributes:
        shape: of its token ids, (rows, length); empty for a step of ops alone.
        alone: whether no other request was running; the head knows.
        built: when its graph was built and its computation began.
    """

    step: Step
    shape: tuple[int, ...]
    alone: bool
    begin: int
    built: int
    computed: int
    sent: int

    @property
    def elapsed_us(self) -> int:
        """Microseconds from its beginning to its result."""
        return (self.computed - self.begin) // 1000


class Timing:
    """Medians of one stage's newest steps, in microseconds. Written by the step thread only.

    Attributes:
        decode_us: of a step of one token of one sequence, here; as tried until one was seen.
        tail_us: what of it the vocabulary head and the draw take, as tried.
        prefill_us: of a prompt token in a long chunk, here.
        token_us: on the head, from one token of a lone sequence to its next, the whole way
            round.
    """

    def __init__(self, warmup: WarmupTiming = NO_WARMUP) -> None:
        self.decode_us = warmup.decode_us
        self.tail_us = warmup.tail_us
        self.prefill_us = 0.0
        self.token_us = 0.0
        self._decodes: deque[float] = deque(maxlen=WINDOW)
        self._prefills: deque[float] = deque(maxlen=WINDOW)
        self._tokens: deque[float] = deque(maxlen=WINDOW)
        self._last: tuple[tuple[int, ...], int] | None = None

    def observe(self, record: StepRecord) -> None:
        """Take in a step; steps come in the order in which they ran."""
        step = record.step
        if not step.rows or len(record.shape) != 2:
            return
        rows, tokens = record.shape
        single = rows == 1 and tokens == 1 and step.sample
        if single:
            self._decodes.append(record.elapsed_us)
            self.decode_us = median(self._decodes)
        elif rows == 1 and tokens >= 64:
            self._prefills.append(record.elapsed_us / tokens)
            self.prefill_us = median(self._prefills)
        counts = single and record.alone
        if counts and self._last is not None and self._last[0] == step.rows:
            self._tokens.append((record.begin - self._last[1]) / 1000)
            self.token_us = median(self._tokens)
        self._last = (step.rows, record.begin) if counts else None
