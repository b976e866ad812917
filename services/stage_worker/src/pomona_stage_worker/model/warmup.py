"""How long a step of one token takes in a stage: tried before there is a request.

The planner predicts from a machine's figures, whatever the model; what a model's own layers
take is known once they are there. With that it can cut anew before anybody is served.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from pomona_stage_worker.model.cache_table import cache_arrays
from pomona_stage_worker.slicing import Activations, Logits, StageModel, slice_model

log = logging.getLogger(__name__)

TRIES = 5


@dataclass(frozen=True, slots=True)
class Trial:
    """Of a step of one token of one sequence, microseconds; zeros when it was not tried.

    Attributes:
        decode_us: the whole step.
        tail_us: what of it the vocabulary head and the draw take; 0 before the tail, and of
            models that cannot be run without it.
    """

    decode_us: float = 0.0
    tail_us: float = 0.0


NOT_TRIED = Trial()


def try_steps(model: StageModel) -> Trial:
    """Run a few steps, over caches of their own. Whatever a model raises costs the trial, nothing
    else: its first request will tell."""
    try:
        activations = _activations_for(model)
        apart = model.is_tail and model.has_body
        seconds = _quickest(model, activations, ("last", "hidden") if apart else ("last",))
        return Trial(seconds[0] * 1e6, max(seconds[0] - seconds[-1], 0.0) * 1e6)
    except Exception:
        log.exception("the stage's steps cannot be tried")
        return NOT_TRIED


def _activations_for(model: StageModel) -> Activations | None:
    """Zeros like what the stage before sends for one token; its layers are never computed."""
    if model.start == 0:
        return None
    before = slice_model(model.model, 0, model.start)
    sent = before(mx.zeros((1, 1), dtype=mx.int32), None, before.make_cache())
    arrays = sent if isinstance(sent, tuple) else (sent,)
    return tuple(mx.zeros(array.shape, dtype=array.dtype) for array in arrays)


def _quickest(
    model: StageModel, activations: Activations | None, kinds: Sequence[Logits]
) -> list[float]:
    """Seconds of the quickest step of each kind, tried in turns: whatever else runs only makes
    them slower, and comes and goes for all of them."""
    tokens = mx.zeros((1, 1), dtype=mx.int32)
    caches = model.make_cache()
    best = [float("inf")] * len(kinds)
    for _ in range(1 + TRIES):
        for number, logits in enumerate(kinds):
            begin = time.perf_counter()
            output = model(tokens, activations, caches, logits=logits)
            if model.is_tail and logits == "last":
                output = mx.argmax(output[:, -1, :].astype(mx.float32), axis=-1)
            mx.eval(output, cache_arrays(model.owned_caches(caches)))
            best[number] = min(best[number], time.perf_counter() - begin)
    return best
