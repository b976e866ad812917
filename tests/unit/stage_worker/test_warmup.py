"""Tests the warm-up steps that time a stage before its first request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import llama

from pomona_stage_worker.engine.step_stats import StepTimes
from pomona_stage_worker.model import warmup
from pomona_stage_worker.model.warmup import NO_WARMUP, WarmupTiming, warm_up
from pomona_stage_worker.sampling.sampler import sample_tokens
from pomona_stage_worker.slicing import Logits, StageModel, slice_model
from support.models.folders import CONFIG
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
    def seconds(_: StageModel, __: object, kinds: Sequence[Logits]) -> list[float]:
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


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (2, 4), (2, LAYERS), (0, LAYERS)])
def test_a_chunk_a_decode_step_and_a_batch_of_two_are_run(
    start: int, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    draws: list[int] = []
    run = StageModel.__call__

    def noted(self: StageModel, tokens: mx.array, *others: Any, **options: Any) -> Any:
        if self.start == start:
            shapes.append(tokens.shape)
        return run(self, tokens, *others, **options)

    def drawn(logits: mx.array, samplers: Any) -> mx.array:
        assert all(sampler.sampling.temperature > 0 for sampler in samplers)
        draws.append(len(samplers))
        return sample_tokens(logits, samplers)

    monkeypatch.setattr(StageModel, "__call__", noted)
    monkeypatch.setattr(warmup, "sample_tokens", drawn)
    assert warm_up(slice_model(model(), start, stop), chunk=48).decode_us > 0
    assert {(1, 48), (1, 1), (2, 1)} <= set(shapes)
    assert draws == ([1, 1, 1, 2] if stop == LAYERS else [])


def test_quantised_caches_are_warmed_up_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: set[str] = set()
    run = StageModel.__call__

    def noted(self: StageModel, tokens: mx.array, activations: Any, cache: Any, **o: Any) -> Any:
        kinds.update(type(c).__name__ for c in cache)
        return run(self, tokens, activations, cache, **o)

    monkeypatch.setattr(StageModel, "__call__", noted)
    config = {**CONFIG, "num_hidden_layers": 2, "head_dim": 64}
    wide = slice_model(llama.Model(llama.ModelArgs.from_dict(config)), 0, 2)
    assert warm_up(wide, chunk=4, cache_bits=8).decode_us > 0
    assert "QuantizedKVCache" in kinds
