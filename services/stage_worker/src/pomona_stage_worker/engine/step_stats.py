"""Statistics of a stage's steps: median times for the beacon, metrics, and a trace file."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median

import orjson
from prometheus_client import Counter, Histogram

from pomona.messages.pipeline import Step
from pomona_stage_worker.model.warmup import NO_WARMUP, WarmupTiming
from pomona_stage_worker.scheduler import Scheduler

log = logging.getLogger(__name__)

MAX_PENDING = 64
"""Steps that are recorded at once at the latest, when steps follow each other without a pause."""
MAX_PENDING_NS = 1_000_000_000
"""Nanoseconds after which they are recorded even so: a prefill chunk can take seconds."""
MEDIAN_WINDOW = 48
"""Steps whose median is reported: it ignores a pause, or a first step that compiles kernels."""
MIN_PREFILL_TOKENS = 64
"""Fewest tokens of a chunk whose time per token is measured."""
MAX_TRACE_LINES = 10_000
"""Steps that a trace holds between two writes; more are dropped."""

STEPS = Counter("pomona_stage_steps", "Steps run", ["model_name"])
STEP_SECONDS = Histogram(
    "pomona_stage_step_seconds",
    "Compute time of a step",
    ["model_name"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
# The next ones have vLLM's names and buckets.
STEP_TOKENS = Histogram(
    "pomona_iteration_tokens_total",
    "Prompt and reply tokens in a step of the pipeline, reported by its head",
    ["model_name"],
    buckets=(1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
)
PREEMPTIONS = Counter(
    "pomona_num_preemptions",
    "Sequences whose caches were freed for others, reported by the head",
    ["model_name"],
)
DRAFTS = Counter(
    "pomona_spec_decode_num_drafts",
    "Steps with guessed tokens, reported by the head",
    ["model_name"],
)
DRAFT_TOKENS = Counter(
    "pomona_spec_decode_num_draft_tokens",
    "Guessed tokens, reported by the head",
    ["model_name"],
)
ACCEPTED_TOKENS = Counter(
    "pomona_spec_decode_num_accepted_tokens",
    "Guessed tokens that were right, reported by the head",
    ["model_name"],
)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that ran in this stage. Times are nanoseconds of time.monotonic_ns().

    Attributes:
        shape: (rows, length) of its token ids; empty for a step with only ops.
        alone: True when no other request was running. Only the head knows.
        begin: start of the step.
        built: end of building its graph, when its computation began.
        computed: end of its computation.
        sent: time at which its result had been sent.
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
        """Microseconds from its start to its result."""
        return (self.computed - self.begin) // 1000


class StepTimes:
    """Medians over a stage's latest steps, microseconds; 0 before there is a value.

    Written by the step thread only; other threads may read the attributes.

    Attributes:
        decode_us: step of one token of one sequence; the warmup's value before there was one.
        tail_us: part of ``decode_us`` for the vocabulary head and sampling, from the warmup.
        prefill_us: time per token of a long prefill chunk.
        token_us: on the head, time from one token of a lone sequence to its next one, through
            the whole pipeline.
    """

    def __init__(self, warmup: WarmupTiming = NO_WARMUP) -> None:
        self.decode_us = warmup.decode_us
        self.tail_us = warmup.tail_us
        self.prefill_us = 0.0
        self.token_us = 0.0
        self._decodes: deque[float] = deque(maxlen=MEDIAN_WINDOW)
        self._prefills: deque[float] = deque(maxlen=MEDIAN_WINDOW)
        self._tokens: deque[float] = deque(maxlen=MEDIAN_WINDOW)
        self._last: tuple[tuple[int, ...], int] | None = None

    def observe(self, record: StepRecord) -> None:
        """Adds a step. Steps must be added in the order in which they ran."""
        step = record.step
        if not step.rows or len(record.shape) != 2:
            return
        if step.guess is not None:
            self._last = None
            return
        rows, tokens = record.shape
        is_single = rows == 1 and tokens == 1 and step.sample
        if is_single:
            self._decodes.append(record.elapsed_us)
            self.decode_us = median(self._decodes)
        elif rows == 1 and tokens >= MIN_PREFILL_TOKENS:
            self._prefills.append(record.elapsed_us / tokens)
            self.prefill_us = median(self._prefills)
        is_lone_token = is_single and record.alone
        if is_lone_token and self._last is not None and self._last[0] == step.rows:
            self._tokens.append((record.begin - self._last[1]) / 1000)
            self.token_us = median(self._tokens)
        self._last = (step.rows, record.begin) if is_lone_token else None


class StepTrace:
    """Writes one JSON line a step to a file a worker.

    Times are nanoseconds of time.monotonic_ns(), a clock that all processes of a machine share.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._path = folder / f"{worker}.jsonl"
        self._lines: list[dict[str, object]] = []

    def add(self, record: StepRecord) -> None:
        if len(self._lines) >= MAX_TRACE_LINES:
            return
        step = record.step
        self._lines.append(
            {
                "step": step.step,
                "lane": step.lane,
                "rows": len(step.rows),
                "sample": step.sample,
                "begin": record.begin,
                "built": record.built,
                "computed": record.computed,
                "sent": record.sent,
            }
        )

    def write(self) -> None:
        """Appends the collected lines to the file. A failing disk loses them, nothing else."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            with self._path.open("ab") as file:
                file.writelines(orjson.dumps(line) + b"\n" for line in lines)
        except OSError as error:
            log.warning("cannot write the trace to %s: %s", self._path, error)


class StepStats:
    """Collects steps at once and records them later, when no step waits for this thread.

    Used by the step thread only, except for ``times`` and ``compute_us``.

    Attributes:
        compute_us: microseconds that the recorded steps have computed.

    Args:
        model: model name, for metrics.
        scheduler: on the head, for metrics of its schedule.
    """

    def __init__(
        self, model: str, warmup: WarmupTiming, scheduler: Scheduler | None, trace: StepTrace | None
    ) -> None:
        self.times = StepTimes(warmup)
        self.compute_us = 0
        self._scheduler = scheduler
        self._trace = trace
        self._pending: list[StepRecord] = []
        self._preemptions = 0
        self._guesses = 0, 0, 0
        self._steps = STEPS.labels(model)
        self._seconds = STEP_SECONDS.labels(model)
        self._model = model
        if scheduler is not None:
            # They exist from the start, so that a rate has a first value.
            for metric in (STEP_TOKENS, PREEMPTIONS, DRAFTS, DRAFT_TOKENS, ACCEPTED_TOKENS):
                metric.labels(model)

    def add(self, record: StepRecord) -> None:
        """Adds a step whose result has been sent."""
        self._pending.append(record)
        pending_ns = record.sent - self._pending[0].begin
        if len(self._pending) >= MAX_PENDING or pending_ns >= MAX_PENDING_NS:
            self.record()

    def record(self) -> None:
        """Records the collected steps.

        To be called when this thread is idle, since the result of the last step may need its
        core to leave.
        """
        for record in self._pending:
            self.times.observe(record)
            if self._trace is not None:
                self._trace.add(record)
            self._seconds.observe(record.elapsed_us / 1e6)
            self.compute_us += record.elapsed_us
        self._steps.inc(len(self._pending))
        if self._scheduler is not None:
            self._record_schedule(self._scheduler)
        self._pending.clear()

    def write(self) -> None:
        """Records the collected steps and writes the trace."""
        self.record()
        if self._trace is not None:
            self._trace.write()

    def _record_schedule(self, scheduler: Scheduler) -> None:
        step_tokens = STEP_TOKENS.labels(self._model)
        for record in self._pending:
            if record.step.rows:
                step_tokens.observe(prod(record.shape))
        PREEMPTIONS.labels(self._model).inc(scheduler.preemptions - self._preemptions)
        self._preemptions = scheduler.preemptions
        counts = scheduler.speculator.counts
        totals = counts.drafts, counts.drafted, counts.accepted
        for counter, total, before in zip(
            (DRAFTS, DRAFT_TOKENS, ACCEPTED_TOKENS), totals, self._guesses, strict=True
        ):
            counter.labels(self._model).inc(total - before)
        self._guesses = totals
