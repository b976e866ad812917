"""Tests the warm-up steps that time a stage before its first request."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import pytest
from mlx_lm.models import llama

from pomona_stage_worker.engine.step_stats import StepTimes
from pomona_stage_worker.model import warmup
from pomona_stage_worker.model.warmup import NO_WARMUP, WarmupTiming, warm_up
from pomona_stage_worker.slicing import Activations, Logits, StageModel, slice_model
from support.models.random_llama import LAYERS, VOCABULARY, model


def test_every_stage_of_a_pipeline_is_timed() -> None:
    for start, stop in [(0, 1), (1, 2), (1, LAYERS), (0, LAYERS)]:
        stage = slice_model(model(), start, stop)
        found = warm_up(stage)
        assert found.decode_us > 0
        assert found.tail_us <= found.decode_us
        if stop < LAYERS:
            assert found.tail_us == 0


def test_the_vocabulary_head_is_timed_apart_from_the_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seconds(_: StageModel, __: Activations | None, kinds: Sequence[Logits]) -> list[float]:
        return [{"last": 0.05, "hidden": 0.02}[logits] for logits in kinds]

    monkeypatch.setattr(warmup, "_fastest_steps", seconds)
    found = warm_up(slice_model(model(), 1, LAYERS))
    assert found.decode_us == pytest.approx(50_000)
    assert found.tail_us == pytest.approx(30_000)


def test_a_large_last_layer_does_not_count_as_the_vocabulary_head() -> None:
    wide = llama.ModelArgs(
        model_type="llama",
        hidden_size=256,
        num_hidden_layers=1,
        intermediate_size=1 << 14,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=VOCABULARY,
    )
    found = warm_up(slice_model(llama.Model(wide), 0, 1))
    assert found.decode_us > 0
    assert found.tail_us < found.decode_us / 2


def test_a_failing_warm_up_gives_no_timing_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> mx.array:
        raise ValueError("of its own kind")

    monkeypatch.setattr(warmup, "_fastest_steps", broken)
    assert warm_up(slice_model(model(), 0, 1)) == NO_WARMUP


def test_the_trial_is_told_until_there_was_a_request() -> None:
    assert StepTimes(WarmupTiming(900.0, 300.0)).decode_us == 900
    assert StepTimes(WarmupTiming(900.0, 300.0)).tail_us == 300
