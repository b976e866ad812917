"""Warm-up steps that time a stage before its first request.

The planner predicts from a machine's benchmark, whatever the model. Warm-up measures the model's
own layers, so that the planner can cut again before the first request. On Metal it also compiles
the kernels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from pomona_stage_worker.model.layer_caches import cache_arrays
from pomona_stage_worker.slicing import Activations, Logits, StageModel, slice_model

log = logging.getLogger(__name__)

STEPS = 5
"""Steps of each kind after the first one, which is slow."""


@dataclass(frozen=True, slots=True)
class WarmupTiming:
    """Times of a decode step of one sequence, in microseconds; zeros without warm-up.

    Attributes:
        decode_us: the whole step.
        tail_us: its part that the vocabulary head and the sampler take; 0 except on the
            tail of a model that can run without its vocabulary head.
    """

    decode_us: float = 0.0
    tail_us: float = 0.0


NO_WARMUP = WarmupTiming()


def warm_up(model: StageModel) -> WarmupTiming:
    """Times a few decode steps over temporary caches.

    Returns NO_WARMUP if the model raises: the first request then reports the error.
    """
    try:
        activations = _zero_activations(model)
        separable = model.is_tail and model.has_body
        seconds = _fastest_steps(model, activations, ("last", "hidden") if separable else ("last",))
        return WarmupTiming(seconds[0] * 1e6, max(seconds[0] - seconds[-1], 0.0) * 1e6)
    except Exception:
        log.exception("the stage's warm-up failed; it serves without")
        return NO_WARMUP


def _zero_activations(model: StageModel) -> Activations | None:
    """Returns zeros of the dtypes and shapes that the previous stage sends for one token. The
    previous layers are traced, never computed."""
    if model.start == 0:
        return None
    before = slice_model(model.model, 0, model.start)
    sent = before(mx.zeros((1, 1), dtype=mx.int32), None, before.make_cache())
    arrays = sent if isinstance(sent, tuple) else (sent,)
    return tuple(mx.zeros(array.shape, dtype=array.dtype) for array in arrays)


def _fastest_steps(
    model: StageModel, activations: Activations | None, kinds: Sequence[Logits]
) -> list[float]:
    """Returns the seconds of the fastest step of each kind. The kinds alternate, so that other
    load on the machine slows all alike."""
    tokens = mx.zeros((1, 1), dtype=mx.int32)
    caches = model.make_cache()
    best = [float("inf")] * len(kinds)
    for _ in range(1 + STEPS):
        for number, logits in enumerate(kinds):
            started = time.perf_counter()
            output = model(tokens, activations, caches, logits=logits)
            if model.is_tail and logits == "last":
                output = mx.argmax(output[:, -1, :].astype(mx.float32), axis=-1)
            mx.eval(output, cache_arrays(model.owned_caches(caches)))
            best[number] = min(best[number], time.perf_counter() - started)
    return best
