"""What is noted of the steps that ran in one stage: medians, metrics, a trace."""

from __future__ import annotations

from math import prod

from prometheus_client import Counter, Histogram

from pomona_stage_worker.engine.step_timing import StepRecord, Timing
from pomona_stage_worker.engine.step_trace import StepTrace
from pomona_stage_worker.model.warmup import WarmupTiming
from pomona_stage_worker.scheduler import Scheduler

MOST_UNRECORDED = 64
"""Steps of which no note was taken yet, when one step follows another without a pause."""

STEPS = Counter("pomona_stage_steps", "Steps run", ["model_name"])
STEP_SECONDS = Histogram(
    "pomona_stage_step_seconds",
    "Compute time of a step",
    ["model_name"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
STEP_TOKENS = Histogram(
    "pomona_iteration_tokens_total",
    "Tokens of prompts and replies in a step of the pipeline, as its head tells",
    ["model_name"],
    buckets=(1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
)
PREEMPTIONS = Counter(
    "pomona_num_preemptions",
    "Sequences whose caches gave way to others, as the head tells",
    ["model_name"],
)
"""These two have vLLM's names and buckets."""


class StepBook:
    """Takes steps at once and notes them when there is time. Used by the step thread only, but
    for ``timing``, which others may read.

    Args:
        scheduler: on the head, which also tells how steps are composed.
    """

    def __init__(
        self, model: str, warmup: WarmupTiming, scheduler: Scheduler | None, trace: StepTrace | None
    ) -> None:
        self.timing = Timing(warmup)
        self._scheduler = scheduler
        self._trace = trace
        self._unrecorded: list[StepRecord] = []
        self._preempted = 0
        self._steps = STEPS.labels(model)
        self._seconds = STEP_SECONDS.labels(model)
        self._model = model

    def add(self, record: StepRecord) -> None:
        """A step has run, and what it sent is under way."""
        self._unrecorded.append(record)
        if len(self._unrecorded) >= MOST_UNRECORDED:
            self.record()

    def record(self) -> None:
        """Take note of the steps since the last time, when nobody waits for this thread or its
        core: what a step sent must first leave."""
        for record in self._unrecorded:
            self.timing.observe(record)
            if self._trace is not None:
                self._trace.add(record)
            self._seconds.observe(record.elapsed_us / 1e6)
        self._steps.inc(len(self._unrecorded))
        if self._scheduler is not None:
            self._record_schedule(self._scheduler)
        self._unrecorded.clear()

    def write(self) -> None:
        """Note the last steps, and write the trace."""
        self.record()
        if self._trace is not None:
            self._trace.write()

    def _record_schedule(self, scheduler: Scheduler) -> None:
        step_tokens = STEP_TOKENS.labels(self._model)
        for record in self._unrecorded:
            if record.step.rows:
                step_tokens.observe(prod(record.shape))
        PREEMPTIONS.labels(self._model).inc(scheduler.preemptions - self._preempted)
        self._preempted = scheduler.preemptions
