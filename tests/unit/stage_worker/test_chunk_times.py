"""Prefill chunks on a GPU: large ones from measured times, short ones where attention is long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.control import Pipeline
from pomona_stage_worker.scheduler import RunStep, Scheduler
from pomona_stage_worker.scheduler.chunk_times import LEAST_TOKENS, ChunkTimes
from pomona_stage_worker.scheduler.limits import (
    GPU_CHUNK,
    GPU_CHUNK_US,
    SchedulerLimits,
    chunk_limits,
)
from support.doubles.timed_pipeline import TimedPipeline

PIPELINE = Pipeline("m", "m", 1, 8, "active", context_length=200_000, cache_tokens=200_000)


def limits(stages: int, has_experts: bool = False, context: int = 200_000) -> SchedulerLimits:
    chunks = chunk_limits("metal", 0, has_experts, PIPELINE)
    return SchedulerLimits(
        stages, context, context, chunk=chunks.most, min_chunk=chunks.least,
        chunk_us=chunks.longest_us, chunk_cells=chunks.cells,
    )  # fmt: skip


def chunks_of(
    prompt: int,
    stages: int,
    per_token: float,
    has_experts: bool = False,
    per_context: float = 0.0,
) -> list[tuple[int, float]]:
    """Returns tokens and seconds of each chunk of a lone prompt, after some decode steps.

    A step takes 20 ms, and ``per_token + per_context * context`` more for each token.
    """
    chunks: dict[int, tuple[int, float]] = {}

    def seconds(run: RunStep) -> float:
        """Called for each stage in turn."""
        if run.step.lane is not None or not run.tokens:
            return 0.02
        if run.step.step not in chunks:
            tokens = len(run.tokens[0])
            end = sum(count for count, _ in chunks.values()) + tokens
            chunks[run.step.step] = (tokens, 0.02 + tokens * (per_token + per_context * end))
        return chunks[run.step.step][1]

    pipeline = TimedPipeline(stages, seconds)
    pipeline.scheduler = Scheduler(limits(stages, has_experts))
    pipeline.submit(64, 12)
    pipeline.run()
    chunks.clear()
    pipeline.submit(prompt, 1)
    pipeline.run()
    return list(chunks.values())


@pytest.mark.parametrize(("has_experts", "least"), [(False, 256), (True, 512)])
@pytest.mark.parametrize("stages", [1, 2, 8])
def test_a_chunk_has_at_least_256_tokens_or_512_for_experts(
    stages: int, has_experts: bool, least: int
) -> None:
    chunks = chunks_of(9000, stages, 0.0005, has_experts)
    assert all(least <= tokens <= GPU_CHUNK for tokens, _ in chunks[:-1])
    assert sum(tokens for tokens, _ in chunks) == 9000


def test_a_single_stage_reads_in_the_largest_chunks() -> None:
    assert chunks_of(9000, 1, 0.0001)[2][0] == GPU_CHUNK


def test_chunks_of_several_stages_balance_filling_with_reading_weights() -> None:
    """With 20 ms for the weights and 0.5 ms a token, sqrt(9000 * 20 / 0.5) is 600 tokens."""
    for tokens, _ in chunks_of(9000, 2, 0.0005)[3:-1]:
        assert 400 <= tokens <= 800


def test_at_a_long_context_the_floor_gives_way_to_the_time() -> None:
    chunks = chunks_of(120_000, 1, 0.001, per_context=2e-7)
    assert chunks[0][0] >= 256
    assert min(tokens for tokens, _ in chunks[:-1]) < 256
    assert max(took for _, took in chunks[2:]) <= 1.2 * GPU_CHUNK_US / 1e6


def test_a_chunk_stays_within_the_workspace_that_is_planned() -> None:
    chunks = chunks_of(150_000, 1, 1e-5)
    end = 0
    for tokens, _ in chunks:
        end += tokens
        assert tokens * end <= 512 * PIPELINE.context_length


def test_a_cpu_keeps_its_sizes_and_a_setting_is_the_most() -> None:
    cpu = chunk_limits("cpu", 0, True, PIPELINE)
    assert (cpu.most, cpu.least, cpu.longest_us) == (512, 32, 0.0)
    assert chunk_limits("metal", 128, True, PIPELINE).most == 128
    assert chunk_limits("metal", 128, True, PIPELINE).least == 128
    assert chunk_limits("emulated", 0, False, PIPELINE) == chunk_limits("cpu", 0, False, PIPELINE)


@given(
    st.lists(
        st.tuples(st.integers(1, 2048), st.integers(1, 200_000), st.floats(1, 1e8)), max_size=20
    ),
    st.integers(0, 200_000),
    st.integers(1, 2048),
)
def test_a_bound_is_never_below_the_least_nor_above_what_is_asked(
    seen: list[tuple[int, int, float]], begin: int, most: int
) -> None:
    times = ChunkTimes()
    for tokens, end, took in seen:
        times.observe(tokens, end, took)
    assert min(most, LEAST_TOKENS) <= times.tokens_within(2e6, begin, most, 256) <= most
    assert times.tokens_within(0.0, begin, most, 256) == most


def test_times_of_two_contexts_are_continued_in_proportion() -> None:
    times = ChunkTimes()
    times.observe(512, 1000, 512 * 100.0)
    times.observe(512, 9000, 512 * 900.0)
    # 100 us a thousand tokens: 9,900 us a token at the end of a chunk of 2,048.
    assert times.tokens_within(2e6, 96_952, 2048, 256) == 2_000_000 // 9900


def test_a_context_of_which_nothing_is_known_begins_with_the_least() -> None:
    times = ChunkTimes()
    assert times.tokens_within(2e6, 100_000, 2048, 256) == 256
    times.observe(64, 64, 64 * 100.0)
    assert times.tokens_within(2e6, 100_000, 2048, 256) == 256
