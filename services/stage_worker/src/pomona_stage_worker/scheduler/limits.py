"""What a pipeline allows its scheduler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What a pipeline allows.

    Attributes:
        stages: stages of the pipeline; about as many lanes are kept.
        context_length: tokens that prompt and reply of one request may have together.
        cache_tokens: tokens that fit in the caches of the tightest stage.
        can_batch: whether sequences can share a lane.
        can_slice: whether a part of a kept prefix can be used.
        max_waiting: requests that may wait; with one more, the last in line is refused (429).
        max_running: sequences that may be in lanes.
        max_prefilling: prompts that are read in turns.
        chunk: most tokens of a chunk.
        scored_chunk: the same where each token's logits are wanted: they are float32, as
            wide as the vocabulary.
        pace: see :class:`~pomona_stage_worker.scheduler.prefill_budget.Pace`.
        least_prefix: shorter prefixes are not worth keeping.
    """

    stages: int
    context_length: int
    cache_tokens: int
    can_batch: bool = True
    can_slice: bool = True
    max_waiting: int = 256
    max_running: int = 64
    max_prefilling: int = 4
    chunk: int = 512
    scored_chunk: int = 128
    pace: float = 0.7
    least_prefix: int = 16
