"""Prefill chunks fit between decode steps, whatever was measured before."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from statistics import mean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona_stage_worker.scheduler import RunStep
from pomona_stage_worker.scheduler.prefill_budget import PrefillBudget
from support.doubles.timed_pipeline import TimedPipeline

FIXED_US, PER_TOKEN_US = 50_000, 1_000
STAGES = 2
LONGEST_US = 1.9 * FIXED_US

STREAM_TOKENS = 5000
PROMPT = 2000
CHUNK = 125
"""Chunk size of the prompt when no stream runs: an eighth for each of two stages."""


def elapsed(tokens: int) -> list[int]:
    """Returns the time of a chunk in each stage; a step of one token takes ``FIXED_US``."""
    return [FIXED_US + (tokens - 1) * PER_TOKEN_US] * STAGES


def cycles_for(budget: PrefillBudget, prompt: int, lanes: int = 1) -> int:
    """Returns the decode cycles until a prompt is prefilled beside running streams."""
    in_flight: deque[int] = deque()
    for cycle in range(1, 10_000):
        for _ in range(lanes):
            budget.decode_issued(lanes)
            budget.observe_decode(elapsed(1))
            while in_flight:
                done = in_flight.popleft()
                budget.observe_chunk(done, elapsed(done))
            size = budget.affordable(prompt, is_rest=True) if prompt else 0
            if size:
                budget.chunk_issued(size, beside_streams=True)
                in_flight.append(size)
                prompt -= size
        if not prompt:
            return cycle
    raise AssertionError("the prompt was not prefilled")


def run_chunks(budget: PrefillBudget, *chunks: int) -> None:
    """Runs chunks while no stream runs."""
    for tokens in chunks:
        budget.chunk_issued(tokens, beside_streams=False)
        budget.observe_chunk(tokens, elapsed(tokens))


def measured_budget(*before: int) -> PrefillBudget:
    budget = PrefillBudget(0.9)
    run_chunks(budget, *before)
    cycles_for(budget, 256)
    return budget


@pytest.mark.parametrize("before", [(), (1,), (1, 1, 1), (512,) * 8, (1, 512)])
def test_prefill_without_streams_delays_no_later_prompt(before: tuple[int, ...]) -> None:
    """A chunk of one token does not measure the cost of a token, and chunks without streams
    leave no debt."""
    budget = PrefillBudget(0.9)
    run_chunks(budget, *before)
    assert cycles_for(budget, 64) <= cycles_for(measured_budget(), 64) + 2


def test_underestimated_chunk_is_paid_back() -> None:
    budget = measured_budget()
    usual = cycles_for(budget, 200)
    budget.chunk_issued(64, beside_streams=True)
    budget.observe_chunk(64, [30 * FIXED_US] * STAGES)
    cycles_for(budget, 200)
    assert cycles_for(budget, 200) <= 2 * usual


@given(lanes=st.integers(1, 8), prompt=st.integers(1, 2000))
def test_chunks_stay_within_the_budget_of_a_cycle(lanes: int, prompt: int) -> None:
    """A cycle may take 1.9 times its usual time; chunks get all but the lanes' own steps. A chunk
    may also go at the beginning and at the end."""
    budget = measured_budget()
    cycles = cycles_for(budget, prompt, lanes)
    left_us = (1.9 * max(STAGES, lanes) - lanes) * FIXED_US
    chunks_us = FIXED_US + prompt * PER_TOKEN_US
    assert chunks_us <= (cycles + 1) * max(left_us, LONGEST_US) + 1.25 * LONGEST_US


@pytest.mark.parametrize(("prompt", "chunks"), [(32, 1), (60, 1), (80, 2)])
def test_short_prompt_is_not_split(prompt: int, chunks: int) -> None:
    """The rest of a prompt may exceed the longest chunk by a quarter."""
    budget = measured_budget()
    while budget.affordable(1000) < (LONGEST_US - FIXED_US) / PER_TOKEN_US - 2:
        budget.decode_issued(1)
    size = budget.affordable(prompt, is_rest=True)
    assert (size == prompt) == (chunks == 1)
    assert size > 30


@pytest.mark.parametrize("chunks", [1, 100, 3200, 4000])
def test_tokens_of_no_measurable_cost_do_not_overflow(chunks: int) -> None:
    """Prompts that are cached but for one token: each takes the time of a decode step."""
    budget = measured_budget()
    for _ in range(chunks):
        budget.chunk_issued(1, beside_streams=True)
        budget.observe_chunk(1, [FIXED_US - 1] * STAGES)
        budget.decode_issued(1)
        assert budget.affordable(1, is_rest=True) in (0, 1)
        assert 0 <= budget.affordable(1000) <= 1000
    cycles_for(budget, 500)


@pytest.mark.slow
@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("per_token", [0.01, 0.1])
@pytest.mark.parametrize("crowd", [False, True], ids=["lone", "crowd"])
def test_streams_slow_down_by_the_pace_beside_a_long_prefill(
    stages: int, per_token: float, crowd: bool
) -> None:
    """On average they slow down by ``1 + pace`` and never stall; the prefill takes a few times as
    long as it does alone, also with a single stage."""

    def seconds(run: RunStep) -> float:
        """Returns 1, plus ``per_token`` for each further token of a chunk."""
        return 1.0 + (len(run.tokens[0]) - 1) * per_token

    pipeline = TimedPipeline(stages, seconds)
    streams = [pipeline.submit(8, STREAM_TOKENS) for _ in range(stages if crowd else 1)]
    pipeline.run_until(streams[-1], 40)
    idle = median(_intervals(pipeline.token_times[streams[0]][20:]))
    pipeline.run_until(pipeline.submit(PROMPT, 1), 1)
    begin = pipeline.now
    pipeline.run_until(pipeline.submit(PROMPT, 1), 1)
    times = [[t for t in pipeline.token_times[stream] if t >= begin] for stream in streams]
    busy = sorted(x for stream_times in times for x in _intervals(stream_times))
    allowed = 1 + pipeline.scheduler.limits.pace
    assert mean(busy) <= 1.2 * allowed * idle
    assert busy[int(0.99 * len(busy))] <= 3 * idle
    assert pipeline.now - begin <= 8 * PROMPT * (per_token + 1 / CHUNK)


def _intervals(times: list[float]) -> list[float]:
    return [b - a for a, b in pairwise(times)]
