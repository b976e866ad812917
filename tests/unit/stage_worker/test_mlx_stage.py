"""Greedy ids do not change with the number of stages, batching, chunks or cached prefixes."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_lm.generate import generate_step

from pomona_stage_worker.model.mlx_stage import MlxStage
from pomona_stage_worker.model.prebuilt_step import PrebuiltStep, prebuild_step
from pomona_stage_worker.scheduler import SchedulerLimits, lane_count
from pomona_stage_worker.slicing import StageModel, slice_model
from support.doubles.pipeline import InProcessPipeline
from support.models.random_llama import (
    CUTS,
    GREEDY,
    REPLY,
    VOCABULARY,
    llama_pipeline,
    model,
    prompts,
    reference_ids,
    wide_model,
)


@pytest.mark.slow
@pytest.mark.parametrize("bounds", CUTS)
def test_concurrent_requests_get_the_ids_of_lone_requests(bounds: tuple[int, ...]) -> None:
    pipeline = llama_pipeline(bounds)
    all_prompts = prompts(7)
    clients = [pipeline.submit(f"r{n}", prompt, GREEDY) for n, prompt in enumerate(all_prompts)]
    pipeline.run()
    assert [client.tokens for client in clients] == [
        reference_ids(prompt) for prompt in all_prompts
    ]


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    bounds=st.sampled_from(CUTS),
    schedule=st.lists(
        st.one_of(
            st.tuples(st.just("submit"), st.integers(0, 9)),
            st.tuples(st.just("cancel"), st.integers(0, 20)),
            st.tuples(st.just("move"), st.integers(0, 1000)),
            st.tuples(st.just("moves"), st.integers(0, 1000)),
        ),
        max_size=60,
    ),
)
def test_random_submits_and_cancels_change_no_ids(
    bounds: tuple[int, ...], schedule: list[tuple[str, int]]
) -> None:
    pipeline = llama_pipeline(bounds, chunk=16)
    texts = prompts(10)
    submitted: dict[str, tuple[int, ...]] = {}
    cancelled: set[str] = set()
    # The lane count changes every few steps.
    with patch.multiple(lane_count, TRIAL_ROUNDS=1, RETRIAL_ROUNDS=1, MAX_RETRIAL_ROUNDS=1):
        for kind, number in schedule:
            if kind == "submit":
                request = f"r{len(submitted)}"
                submitted[request] = texts[number]
                pipeline.submit(request, texts[number], GREEDY)
            elif kind == "cancel" and f"r{number}" in submitted:
                cancelled.add(f"r{number}")
                pipeline.cancel(f"r{number}")
            else:
                for _ in range(1 if kind == "move" else 15):
                    moves = pipeline.moves()
                    moves[number % len(moves)]()
                    pipeline.now += number / 1e6
        pipeline.run()
    for request, prompt in submitted.items():
        got = pipeline.clients[request].tokens
        assert got == reference_ids(prompt)[: len(got)]
        assert len(got) == REPLY or request in cancelled
    tables = pipeline.tables()
    assert all(table == tables[0] for table in tables)


@pytest.mark.slow
@pytest.mark.parametrize("bounds", CUTS)
def test_second_turn_from_a_cached_prefix_gives_the_same_ids(bounds: tuple[int, ...]) -> None:
    pipeline = llama_pipeline(bounds)
    first = prompts(1, 50)[0] * 8
    reply = pipeline.submit("a", first, GREEDY)
    pipeline.run()
    second = (*first, *reply.tokens, 5, 6, 7)
    again = pipeline.submit("b", second, GREEDY)
    pipeline.run()
    third = (*second, *again.tokens, 9)
    last = pipeline.submit("c", third, GREEDY)
    pipeline.run()
    branch = (*first[:-3], 11, 12)
    other = pipeline.submit("d", branch, GREEDY)
    pipeline.run()
    assert [again.tokens, last.tokens, other.tokens] == [
        reference_ids(second),
        reference_ids(third),
        reference_ids(branch),
    ]
    assert again.cached == len(first) + REPLY - 1
    assert last.cached == len(second) + REPLY - 1
    assert other.cached == len(first) - 3


@pytest.mark.slow
def test_remaining_prefixes_are_exact_after_eviction_and_trimming() -> None:
    pipeline = llama_pipeline((0, 2, 5), cache_tokens=420)
    system = prompts(1, 50)[0] * 3
    for number in range(12):
        prompt = (*system, *(((number * 13 + i) % VOCABULARY) for i in range(40)))
        client = pipeline.submit(f"r{number}", prompt, GREEDY)
        pipeline.run()
        assert client.tokens == reference_ids(prompt)
        assert number == 0 or client.cached >= len(system)


@pytest.mark.slow
def test_preempted_sequences_give_the_same_ids() -> None:
    pipeline = llama_pipeline((0, 2, 5), cache_tokens=110)
    all_prompts = [prompt[:25] for prompt in prompts(6)]
    clients = [pipeline.submit(f"r{n}", prompt, GREEDY) for n, prompt in enumerate(all_prompts)]
    pipeline.run()
    assert [client.tokens for client in clients] == [
        reference_ids(prompt) for prompt in all_prompts
    ]


@pytest.mark.parametrize("beside", [False, True])
def test_other_lanes_are_prebuilt_during_a_step_only_if_enabled(
    beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[tuple[int, ...]] = []

    def noted(model: StageModel, caches: Any, rows: tuple[int, ...], *others: Any) -> PrebuiltStep:
        built.append(rows)
        return prebuild_step(model, caches, rows, *others)

    def rest(_: InProcessPipeline) -> None: ...

    monkeypatch.setattr("pomona_stage_worker.model.mlx_stage.prebuild_step", noted)
    monkeypatch.setattr(InProcessPipeline, "_prepare", rest)
    ends = [(0, 2), (2, 5)]
    stages = [MlxStage(slice_model(model(), a, b), builds_beside=beside) for a, b in ends]
    pipeline = InProcessPipeline(
        stages, SchedulerLimits(stages=2, context_length=4096, cache_tokens=9999)
    )
    first, second = prompts(2)
    first_alone = pipeline.submit("a", first, GREEDY)
    pipeline.run()
    assert not built, "a lone lane is prebuilt only when its stage is idle"
    clients = [pipeline.submit(f"b{n}", prompt, GREEDY) for n, prompt in enumerate((first, second))]
    pipeline.run()
    assert (len(built) > REPLY) == beside
    expected = [reference_ids(prompt) for prompt in (first, first, second)]
    assert [client.tokens for client in (first_alone, *clients)] == expected


@pytest.mark.slow
def test_quantised_caches_run_one_sequence_a_lane_and_agree_with_mlx_lm() -> None:
    wide = wide_model()
    stages = [MlxStage(slice_model(wide, a, b), cache_bits=8) for a, b in [(0, 1), (1, 3)]]
    assert not stages[0].can_batch
    limits = SchedulerLimits(
        stages=2, context_length=4096, cache_tokens=9999, can_batch=False, chunk=2048
    )
    pipeline = InProcessPipeline(stages, limits)
    all_prompts = prompts(4)
    clients = [pipeline.submit(f"r{n}", prompt, GREEDY) for n, prompt in enumerate(all_prompts)]
    pipeline.run()
    for client, prompt in zip(clients, all_prompts, strict=True):
        steps = generate_step(
            mx.array(prompt), wide, max_tokens=REPLY, kv_bits=8, quantized_kv_start=0
        )
        # mlx-lm quantises the caches after the prefill, so only the first token, which comes
        # from unquantised keys and values, is exactly equal.
        assert client.tokens[0] == int(next(iter(steps))[0])
        assert len(client.tokens) == REPLY
