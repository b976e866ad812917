"""Memory that a prefill chunk takes beside weights and caches, measured at the promised context.

Attention without a fused kernel takes memory in proportion to the context, so that a trial with
short caches would promise contexts that do not fit.
"""

from __future__ import annotations

import time
from typing import Any, Final, Protocol

import mlx.core as mx
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from pomona_stage_worker.model.layer_caches import Caches, cache_arrays, new_caches
from pomona_stage_worker.model.warmup import run_step
from pomona_stage_worker.slicing import StageModel
from pomona_stage_worker.slicing.phantom_caches import leaf_caches

FIRST_CONTEXT: Final = 2048
RANDOM_TOKENS: Final = 64
"""Random tokens that are repeated in a lengthened cache, since drawing takes long."""
TRIAL_S: Final = 3.0
"""Time after which no longer context is tried; the rest is extrapolated."""


class PeakMemory(Protocol):
    """The functions of ``mlx.core`` that are used here; bytes."""

    def get_active_memory(self) -> int: ...

    def get_peak_memory(self) -> int: ...

    def reset_peak_memory(self) -> None: ...


def measure_workspace(
    model: StageModel, chunk: int, context: int, cache_bits: int, memory: PeakMemory
) -> int:
    """Returns the bytes that a chunk takes at most at the end of a context.

    Contexts are doubled up to the promised one. When they take too long, the line through the last
    two is continued, since workspace grows at most in proportion to the context.

    Args:
        chunk: tokens of the chunk.
        context: tokens of the longest promised sequence, the chunk included.
        cache_bits: bits of quantised caches.
    """
    began = time.monotonic()
    found: list[tuple[int, int]] = []
    length = min(max(FIRST_CONTEXT, 2 * chunk), context)
    while True:
        found.append((length, _chunk_bytes(model, min(chunk, length), length, cache_bits, memory)))
        if length == context or (len(found) > 1 and time.monotonic() - began > TRIAL_S):
            return extrapolate(found, context)
        length = min(2 * length, context)


def extrapolate(found: list[tuple[int, int]], context: int) -> int:
    """Continues the line through the last two of (context, bytes); never below the last."""
    length, nbytes = found[-1]
    if length == context or len(found) < 2:
        return nbytes
    before, fewer = found[-2]
    slope = max(nbytes - fewer, 0) / (length - before)
    return int(nbytes + slope * (context - length))


def _chunk_bytes(
    model: StageModel, chunk: int, context: int, cache_bits: int, memory: PeakMemory
) -> int:
    """Returns the peak memory of one chunk that ends at ``context``, beyond what is used before."""
    caches = new_caches(model, cache_bits)
    run_step(model, 1, 1, caches)
    lengthen(caches, context - chunk)
    mx.eval(cache_arrays(model.owned_caches(caches)))
    before = memory.get_active_memory()
    memory.reset_peak_memory()
    run_step(model, 1, chunk, caches)
    return max(memory.get_peak_memory() - before, 0)


def lengthen(caches: Caches, length: int, *, is_random: bool = False) -> None:
    """Sets growing caches, phantoms included, to ``length`` tokens.

    Others, like sliding windows and recurrent states, take the same memory at any length.

    Args:
        is_random: fill plain KV caches with normal numbers instead of zeros, the same at each call.
    """
    for number, (_, leaf) in enumerate(leaf_caches(caches)):
        if type(leaf) in (KVCache, QuantizedKVCache) and not leaf.empty() and length:
            seed = number if is_random and type(leaf) is KVCache else None
            leaf.keys = _filled(leaf.keys, length, seed)
            leaf.values = _filled(leaf.values, length, seed)
            leaf.offset = length


def _filled(value: Any, length: int, seed: int | None) -> Any:
    if not isinstance(value, mx.array):
        return tuple(_filled(item, length, seed) for item in value)
    shape = (*value.shape[:2], length, value.shape[-1])
    if seed is None or not value.shape[-1]:
        return mx.zeros(shape, dtype=value.dtype)
    block = mx.random.normal((*shape[:2], RANDOM_TOKENS, shape[-1]), key=mx.random.key(seed))
    repeated = mx.tile(block.astype(value.dtype), (1, 1, -(-length // RANDOM_TOKENS), 1))
    return mx.contiguous(repeated[..., :length, :])
