"""Limits of the scheduler, from the plan and the worker's settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Limits within which the scheduler plans steps.

    Attributes:
        stages: stages of the pipeline.
        context_length: most tokens of one request, prompt and reply together.
        cache_tokens: tokens that fit in the KV caches of the tightest stage.
        can_batch: whether a lane can have more than one row.
        can_slice: whether a part of a cached prefix can be reused.
        max_waiting: requests that may wait. Beyond it, the last in line is rejected (429).
        max_running: sequences that may have caches at once.
        max_prefilling: prompts that are prefilled concurrently, chunk by chunk in turns.
        chunk: most tokens of a prefill chunk.
        logprobs_chunk: the same for a request with ``prompt_logprobs``, whose chunks return
            float32 logits, (tokens, vocabulary).
        pace: fraction by which running streams may slow down beside a prefill.
        min_prefix: fewest tokens of a prefix that is worth caching.
        speculation: whether tokens may be guessed in advance.
        can_roll_back: whether the caches can be restored after a wrong guess.
        max_width: most tokens of a step with guesses.
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
    logprobs_chunk: int = 128
    pace: float = 0.7
    min_prefix: int = 16
    speculation: bool = False
    can_roll_back: bool = True
    max_width: int = 1
