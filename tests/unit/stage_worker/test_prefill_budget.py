"""Prompts advance beside running streams as fast as was promised, whatever was seen before."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona_stage_worker.scheduler.prefill_budget import PrefillBudget

FIXED_US, PER_TOKEN_US = 50_000, 1_000
STAGES = 2
LONGEST_US = 1.9 * FIXED_US


def elapsed(tokens: int) -> list[int]:
    """What a chunk takes in each stage; a step of one token takes ``FIXED_US``."""
    return [FIXED_US + (tokens - 1) * PER_TOKEN_US] * STAGES


def cycles_for(pace: PrefillBudget, prompt: int, lanes: int = 1) -> int:
    """Cycles of the running streams until a prompt is read beside them."""
    flying: deque[int] = deque()
    for cycle in range(1, 10_000):
        for _ in range(lanes):
            pace.decode_issued(lanes)
            pace.observe_decode(elapsed(1))
            while flying:
                done = flying.popleft()
                pace.observe_chunk(done, elapsed(done))
            size = pace.affordable(prompt, is_rest=True) if prompt else 0
            if size:
                pace.chunk_issued(size, beside_streams=True)
                flying.append(size)
                prompt -= size
        if not prompt:
            return cycle
    raise AssertionError("the prompt was never read")


def alone(pace: PrefillBudget, *chunks: int) -> None:
    """Chunks of a prompt that nobody waits for."""
    for tokens in chunks:
        pace.chunk_issued(tokens, beside_streams=False)
        pace.observe_chunk(tokens, elapsed(tokens))


def settled(*before: int) -> PrefillBudget:
    pace = PrefillBudget(0.9)
    alone(pace, *before)
    cycles_for(pace, 256)
    return pace


@pytest.mark.parametrize("before", [(), (1,), (1, 1, 1), (512,) * 8, (1, 512)])
def test_what_was_read_alone_delays_no_prompt(before: tuple[int, ...]) -> None:
    """A first chunk of one token takes what reading the weights takes, which says nothing of
    a token; and a long prompt that held up nobody leaves no debt."""
    pace = PrefillBudget(0.9)
    alone(pace, *before)
    assert cycles_for(pace, 64) <= cycles_for(settled(), 64) + 2


def test_an_estimate_that_was_wrong_is_made_good() -> None:
    pace = settled()
    usual = cycles_for(pace, 200)
    pace.chunk_issued(64, beside_streams=True)
    pace.observe_chunk(64, [30 * FIXED_US] * STAGES)
    cycles_for(pace, 200)
    assert cycles_for(pace, 200) <= 2 * usual


@given(lanes=st.integers(1, 8), prompt=st.integers(1, 2000))
def test_streams_keep_their_share(lanes: int, prompt: int) -> None:
    """Chunks take at most what the steps of a cycle leave of it when it is 1.9 times longer, and
    one may go at the beginning and at the end."""
    pace = settled()
    cycles = cycles_for(pace, prompt, lanes)
    left_us = (1.9 * max(STAGES, lanes) - lanes) * FIXED_US
    chunks_us = FIXED_US + prompt * PER_TOKEN_US
    assert chunks_us <= (cycles + 1) * max(left_us, LONGEST_US) + 1.25 * LONGEST_US


@pytest.mark.parametrize(("prompt", "chunks"), [(32, 1), (60, 1), (80, 2)])
def test_a_short_prompt_is_not_cut(prompt: int, chunks: int) -> None:
    """Every chunk reads all weights once; a quarter of the longest may be borrowed."""
    pace = settled()
    while pace.affordable(1000) < (LONGEST_US - FIXED_US) / PER_TOKEN_US - 2:
        pace.decode_issued(1)
    size = pace.affordable(prompt, is_rest=True)
    assert (size == prompt) == (chunks == 1)
    assert size > 30


@pytest.mark.parametrize("chunks", [1, 100, 3200, 4000])
def test_tokens_that_seem_to_cost_nothing_are_many_not_a_failure(chunks: int) -> None:
    """Prompts of which all but a token is kept, for long: each takes what a step takes."""
    pace = settled()
    for _ in range(chunks):
        pace.chunk_issued(1, beside_streams=True)
        pace.observe_chunk(1, [FIXED_US - 1] * STAGES)
        pace.decode_issued(1)
        assert pace.affordable(1, is_rest=True) in (0, 1)
        assert 0 <= pace.affordable(1000) <= 1000
    cycles_for(pace, 500)
