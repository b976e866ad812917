"""Warm-up steps that time a stage, and compile its kernels, before its first request.

The planner predicts from a machine's benchmark, whatever the model. Warm-up measures the model's
own layers, so that the planner can cut again before the first request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from pomona.messages.cache_ops import Open
from pomona.messages.sampling import Sampling
from pomona_stage_worker.model.layer_caches import (
    Caches,
    cache_arrays,
    can_batch,
    merge_rows,
    new_caches,
)
from pomona_stage_worker.sampling.sampler import sample_tokens
from pomona_stage_worker.sampling.sequence_state import SequenceSampler
from pomona_stage_worker.slicing import Logits, StageModel

log = logging.getLogger(__name__)

STEPS = 5
"""Steps of each kind after the first one, which is slow."""


@dataclass(frozen=True, slots=True)
class WarmupTiming:
    """Results of the warm-up; times of a decode step of one sequence, in microseconds.

    All are zero without warm-up.

    Attributes:
        decode_us: the whole step, microseconds.
        tail_us: its part that the vocabulary head and the sampler take; 0 except on the
            tail of a model that can run without its vocabulary head.
        workspace_bytes: memory of a prefill chunk at the promised context, beside weights and
            caches; 0 where it is not measured.
    """

    decode_us: float = 0.0
    tail_us: float = 0.0
    workspace_bytes: int = 0


NO_WARMUP = WarmupTiming()

_DRAW = Open(0, "warm-up", 0, "", Sampling(1, temperature=0.7, top_p=0.9, top_k=40))
"""The sampling of most chat clients, which uses every filter's kernels."""


def warm_up(model: StageModel, chunk: int = 1, cache_bits: int = 0) -> WarmupTiming:
    """Runs what a first user would: a prefill chunk, decode steps, a sampled draw, and a batch of
    two sequences. Times the decode steps.

    Returns NO_WARMUP if the model raises: the first request then reports the error.

    Args:
        chunk: tokens of the prefill chunk.
        cache_bits: bits of quantised caches, as the stage's own have.
    """
    try:
        separable = model.is_tail and model.has_body
        kinds: tuple[Logits, ...] = ("last", "hidden") if separable else ("last",)
        seconds = _fastest_steps(model, zero_activations(model), kinds)
        _run_first_request(model, chunk, cache_bits)
        return WarmupTiming(seconds[0] * 1e6, max(seconds[0] - seconds[-1], 0.0) * 1e6)
    except Exception:
        log.exception("the stage's warm-up failed; it serves without")
        return NO_WARMUP


def _run_first_request(model: StageModel, chunk: int, cache_bits: int) -> None:
    """Runs a chunk and a decode step of one sequence, then a step of a batch of two."""
    caches = [new_caches(model, cache_bits) for _ in range(2)]
    run_step(model, 1, chunk, caches[0])
    run_step(model, 1, 1, caches[0])
    if can_batch(caches[0]):
        run_step(model, 1, 1, caches[1])
        run_step(model, 2, 1, merge_rows(caches))


def run_step(model: StageModel, rows: int, length: int, caches: Caches) -> None:
    """Runs a step of (rows, length) tokens and, on the tail, draws a token for each row."""
    tokens = mx.zeros((rows, length), dtype=mx.int32)
    output = model(tokens, zero_activations(model, rows, length) or None, caches, logits="last")
    if model.is_tail:
        samplers = [SequenceSampler.from_open(_DRAW) for _ in range(rows)]
        output = sample_tokens(output[:, -1, :].astype(mx.float32), samplers)
    mx.eval(output, cache_arrays(model.owned_caches(caches)))


def zero_activations(model: StageModel, rows: int = 1, length: int = 1) -> tuple[mx.array, ...]:
    """Returns zeros of the dtypes and shapes that the previous stage sends for a step of
    (rows, length) tokens; none at the head. The previous layers are traced, never computed."""
    if model.start == 0:
        return ()
    before = model.stage_before()
    caches = before.make_cache()
    sent = before(mx.zeros((rows, length), dtype=mx.int32), None, caches)
    arrays = sent if isinstance(sent, tuple) else (sent,)
    return tuple(mx.zeros(array.shape, dtype=array.dtype) for array in arrays)


def _fastest_steps(
    model: StageModel, activations: tuple[mx.array, ...], kinds: Sequence[Logits]
) -> list[float]:
    """Returns the seconds of the fastest step of each kind. The kinds alternate, so that other
    load on the machine slows all alike."""
    tokens = mx.zeros((1, 1), dtype=mx.int32)
    caches = model.make_cache()
    best = [float("inf")] * len(kinds)
    for _ in range(1 + STEPS):
        for number, logits in enumerate(kinds):
            started = time.perf_counter()
            output = model(tokens, activations or None, caches, logits=logits)
            if model.is_tail and logits == "last":
                output = mx.argmax(output[:, -1, :].astype(mx.float32), axis=-1)
            mx.eval(output, cache_arrays(model.owned_caches(caches)))
            best[number] = min(best[number], time.perf_counter() - started)
    return best
