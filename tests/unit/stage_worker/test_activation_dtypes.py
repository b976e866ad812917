"""Activations of one float type along a pipeline, and their way out of a stage."""

from __future__ import annotations

from array import array
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import llama

from pomona.messages.cache_ops import Open
from pomona.messages.pipeline import Step, Tensor
from pomona_stage_worker.model.activation_bytes import describe, exportable, from_bytes, to_bytes
from pomona_stage_worker.model.mlx_stage import Computation, MlxStage, StepOutput
from pomona_stage_worker.slicing import slice_model
from support.models.folders import CONFIG
from support.models.random_llama import GREEDY


def half_precision_stage(start: int, stop: int) -> MlxStage:
    half = llama.Model(llama.ModelArgs.from_dict(CONFIG))
    half.set_dtype(mx.bfloat16)
    return MlxStage(slice_model(half, start, stop))


def run_chunk(stage: MlxStage, *activations: mx.array) -> tuple[Computation, StepOutput]:
    """Runs a chunk of three tokens of a new sequence. Activations arrive as bytes."""
    sent = [exportable(x) for x in activations]
    mx.eval(sent)
    arrived = [describe(x) for x in activations]
    step = Step(1, None, (7,), False, (Open(7, "r", 0, "tcp://127.0.0.1:1", GREEDY),))
    ids = memoryview(array("i", [1, 2, 3])).cast("B")
    computation = stage.start_step(
        step, (Tensor("int32", (1, 3)), *arrived), (ids, *map(to_bytes, sent))
    )
    return computation, computation.finish()


@pytest.mark.parametrize("arrived", [mx.float32, mx.float16, mx.bfloat16])
def test_another_float_type_of_the_stage_before_does_not_grow_caches(arrived: mx.Dtype) -> None:
    stage, same = half_precision_stage(2, 5), half_precision_stage(2, 5)
    activations = mx.random.normal((1, 3, CONFIG["hidden_size"]))
    computation, _ = run_chunk(stage, activations.astype(arrived))
    run_chunk(same, activations.astype(mx.bfloat16))
    assert computation.tensors[0].dtype == "bfloat16"
    assert stage.cache_bytes() == same.cache_bytes()


def test_activations_leave_as_bytes_without_a_second_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = half_precision_stage(0, 2)
    evaluated: list[mx.Dtype] = []
    start = mx.async_eval

    def noted(raw: Any, cached: Any) -> None:
        evaluated.extend(x.dtype for x in raw)
        start(raw, cached)

    monkeypatch.setattr(mx, "async_eval", noted)
    computation, output = run_chunk(stage)
    assert evaluated == [mx.uint16], "the bytes of bfloat16 are part of the graph"
    assert from_bytes(computation.tensors[0], output.buffers[0]).dtype == mx.bfloat16
