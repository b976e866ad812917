"""Limits of the scheduler, from the plan and the worker's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pomona.messages.control import Pipeline

CPU_CHUNK: Final = 512
CPU_MIN_CHUNK: Final = 32
GPU_CHUNK: Final = 2048
GPU_MIN_CHUNK: Final = 256
GPU_MIN_EXPERTS_CHUNK: Final = 512
"""A chunk reads each expert that any of its tokens uses; a short one reads nearly all for few."""
GPU_CHUNK_US: Final = 2e6
"""Longest time of a chunk in a stage, microseconds. macOS ends a command buffer that holds the GPU
for some seconds, and the process with it."""
PLANNED_CHUNK: Final = 512
"""Tokens of the chunk whose workspace at the promised context the planner counts."""


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """Sizes of prefill chunks when no stream runs; see :class:`SchedulerLimits`."""

    most: int
    least: int
    longest_us: float = 0.0
    cells: int = 0


def chunk_limits(device: str, wanted: int, has_experts: bool, pipeline: Pipeline) -> ChunkLimits:
    """Returns the sizes of chunks on a device.

    Args:
        device: ``metal``, ``cuda`` or ``cpu``.
        wanted: most tokens of a chunk by the settings; 0 for automatic.
        has_experts: the model routes tokens to experts.
    """
    if device not in ("metal", "cuda"):
        most = wanted or CPU_CHUNK
        return ChunkLimits(most, min(CPU_MIN_CHUNK, most))
    most = wanted or GPU_CHUNK
    least = min(GPU_MIN_EXPERTS_CHUNK if has_experts else GPU_MIN_CHUNK, most)
    context = min(pipeline.context_length, pipeline.cache_tokens)
    return ChunkLimits(most, least, GPU_CHUNK_US, (wanted or PLANNED_CHUNK) * context)


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
        min_chunk: fewest tokens of a chunk that is cut from a prompt when no stream runs, unless
            ``chunk_us`` or ``chunk_cells`` allows fewer.
        chunk_us: longest time of a chunk in one stage, microseconds; 0 for no limit. macOS ends a
            command buffer that holds the GPU for too long.
        chunk_cells: largest product of a chunk's tokens and its context, for which workspace is
            planned; 0 for no limit.
        logprobs_chunk: the same for a request with ``prompt_logprobs``, whose chunks return
            float32 logits, (tokens, vocabulary).
        pace: fraction by which running streams may slow down beside a prefill.
        min_prefix: fewest tokens of a prefix that is worth caching.
        speculation: whether tokens may be guessed in advance.
        can_roll_back: whether the caches can be restored after a wrong guess.
        max_width: most tokens of a step with guesses.
        deterministic: whether a reply must not depend on the requests beside it: one sequence a
            lane, and chunks that end at multiples of ``block``.
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
    min_chunk: int = 32
    chunk_us: float = 0.0
    chunk_cells: int = 0
    logprobs_chunk: int = 128
    pace: float = 0.7
    min_prefix: int = 16
    speculation: bool = False
    can_roll_back: bool = True
    max_width: int = 1
    deterministic: bool = False

    @property
    def block(self) -> int:
        """Tokens at whose multiples a prompt is cut into chunks, and prefixes are reused; 1 when
        chunks may have any size."""
        return min(self.chunk, self.logprobs_chunk) if self.deterministic else 1
