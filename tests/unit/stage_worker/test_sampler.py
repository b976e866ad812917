"""Tests sampling: each row follows its own request's parameters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.cache_ops import Open
from pomona.messages.sampling import Sampling
from pomona_stage_worker.sampling.sampler import sample_tokens, sampler_outputs, uniform
from pomona_stage_worker.sampling.sequence_state import SequenceSampler
from pomona_stage_worker.sampling.tail_results import SamplerOutput

PLAIN = Sampling(max_tokens=100, temperature=1.0)
GREEDY = replace(PLAIN, temperature=0.0)


def sampler(sampling: Sampling, history: tuple[int, ...] = (), replied: int = 0, index: int = 0):
    return SequenceSampler.from_open(Open(1, "r", 1, "tcp://g", sampling, index, history, replied))


def sample(logits: mx.array, samplers: Sequence[SequenceSampler]) -> list[SamplerOutput]:
    return sampler_outputs(sample_tokens(logits, samplers), logits, samplers)


def one(logits: list[float], sampling: Sampling, index: int = 0) -> int:
    return sample(mx.array([logits]), [sampler(sampling, index=index)])[0].token


def frequencies(logits: list[float], sampling: Sampling, count: int = 3000) -> dict[int, float]:
    rows = mx.broadcast_to(mx.array(logits), (count, len(logits)))
    sampled = sample(rows, [sampler(sampling, index=index) for index in range(count)])
    return {token: n / count for token, n in Counter(s.token for s in sampled).items()}


def test_temperature_zero_picks_the_most_likely_token() -> None:
    assert one([0.1, 3.0, 2.9], GREEDY) == 1


@pytest.mark.slow
def test_samples_follow_the_models_distribution() -> None:
    seen = frequencies([0.0, 1.0986123, 0.0], PLAIN)
    assert seen[1] == pytest.approx(0.6, abs=0.04)
    assert seen[0] == pytest.approx(0.2, abs=0.04)


def test_temperature_scales_the_logits() -> None:
    seen = frequencies([0.0, 1.0], replace(PLAIN, temperature=0.5))
    assert seen[1] == pytest.approx(0.8808, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (replace(PLAIN, top_k=2), {0, 1}),
        (replace(PLAIN, top_p=0.5), {0}),
        (replace(PLAIN, top_p=0.75), {0, 1}),
        (replace(PLAIN, min_p=0.3), {0, 1}),
        (replace(PLAIN, top_k=3, top_p=0.8), {0, 1}),
        (replace(PLAIN, top_k=1), {0}),
        (PLAIN, {0, 1, 2, 3}),
    ],
)
def test_top_k_top_p_and_min_p_exclude_unlikely_tokens(
    sampling: Sampling, possible: set[int]
) -> None:
    logits = [math.log(p) for p in (0.55, 0.25, 0.12, 0.08)]
    assert set(frequencies(logits, sampling)) == possible


def test_a_row_gets_the_same_token_alone_and_in_a_batch() -> None:
    mx.random.seed(1)
    logits = mx.random.normal((6, 500))
    samplings = [
        replace(PLAIN, seed=5),
        GREEDY,
        replace(PLAIN, seed=6, top_p=0.9),
        replace(PLAIN, seed=7, temperature=0.3, top_k=40),
        replace(PLAIN, seed=8, min_p=0.05),
        replace(PLAIN, seed=9, frequency_penalty=1.0),
    ]
    together = sample(logits, [sampler(s, index=i) for i, s in enumerate(samplings)])
    alone = [sample(logits[i : i + 1], [sampler(s, index=i)])[0] for i, s in enumerate(samplings)]
    assert together == alone


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31))
def test_uniform_numbers_lie_in_the_unit_interval(seed: int, index: int) -> None:
    assert 0 <= uniform(seed, index) < 1


def test_uniform_numbers_are_evenly_distributed() -> None:
    values = [uniform(42, index) for index in range(4000)]
    for tenth in range(10):
        share = sum(tenth <= 10 * v < tenth + 1 for v in values) / len(values)
        assert share == pytest.approx(0.1, abs=0.025)


def test_repetition_penalty_counts_prompt_and_reply() -> None:
    sampling = replace(GREEDY, repetition_penalty=2.0)
    row = mx.array([[3.0, 2.0, -1.0]])
    assert sample(row, [sampler(sampling, history=(0,))])[0].token == 1
    assert sample(row, [sampler(sampling, history=(5, 1), replied=1)])[0].token == 0


def test_presence_and_frequency_penalties_count_the_reply_only() -> None:
    presence = replace(GREEDY, presence_penalty=1.5)
    row = mx.array([[3.0, 2.0]])
    assert sample(row, [sampler(presence, history=(0, 0))])[0].token == 0
    assert sample(row, [sampler(presence, history=(0,), replied=1)])[0].token == 1
    frequency = replace(GREEDY, frequency_penalty=0.6)
    assert sample(row, [sampler(frequency, history=(0,), replied=1)])[0].token == 0
    assert sample(row, [sampler(frequency, history=(0, 0), replied=2)])[0].token == 1


def test_penalties_see_sampled_tokens() -> None:
    state = sampler(replace(GREEDY, presence_penalty=2.0), history=(9,))
    first = sample(mx.array([[3.0, 2.0]]), [state])[0]
    state.accept(first)
    assert sample(mx.array([[3.0, 2.0]]), [state])[0].token == 1


def test_logit_bias_changes_single_tokens() -> None:
    assert one([3.0, 2.0, 0.0], replace(GREEDY, logit_bias=((2, 100.0), (999, 5.0)))) == 2
    assert one([3.0, 2.0, 0.0], replace(GREEDY, logit_bias=((0, -100.0),))) == 1


def test_no_stop_id_is_sampled_before_min_tokens() -> None:
    sampling = replace(GREEDY, stop_ids=(0,), min_tokens=2)
    assert one([3.0, 2.0], sampling, index=1) == 1
    assert one([3.0, 2.0], sampling, index=2) == 0


def test_stop_ids_and_max_tokens_end_a_reply() -> None:
    state = sampler(replace(GREEDY, stop_ids=(7,), max_tokens=2))
    assert state.accept(SamplerOutput(1)).sampled.finish is None
    assert state.accept(SamplerOutput(1)).sampled.finish == "length"
    state = sampler(replace(GREEDY, stop_ids=(7,)))
    assert state.accept(SamplerOutput(7)).token.finish == "stop"


def test_logprobs_are_computed_before_penalties_and_filters() -> None:
    sampling = replace(GREEDY, logprobs=2, logit_bias=((1, 100.0),))
    output = sample(mx.array([[2.0, 0.0, 1.0]]), [sampler(sampling)])[0]
    total = math.log(sum(map(math.exp, (2.0, 0.0, 1.0))))
    assert output.token == 1
    assert output.logprob == pytest.approx(0.0 - total)
    assert [token for token, _ in output.top] == [0, 2]
    assert [value for _, value in output.top] == pytest.approx([2.0 - total, 1.0 - total])


def test_logprobs_zero_gives_the_sampled_tokens_logprob_only() -> None:
    output = sample(mx.array([[2.0, 0.0]]), [sampler(replace(GREEDY, logprobs=0))])[0]
    assert output.logprob is not None
    assert output.top == ()
