"""Tests prompt logprobs: each arrives once, in order, and equals the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pomona.messages.sampling import Sampling
from support.models.random_llama import CUTS, GREEDY, llama_pipeline, model, prompts, reference_ids

WITH_LOGPROBS = replace(GREEDY, prompt_logprobs=3)


def logprobs(prompt: Sequence[int]) -> np.ndarray:
    """Returns the uncut model's logprobs after each token, float32 (len(prompt), vocabulary)."""
    logits = model()(mx.array([list(prompt)]))[0]
    return np.asarray(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def scores(prompt: Sequence[int]) -> list[float]:
    return [float(row[token]) for row, token in zip(logprobs(prompt), prompt[1:], strict=False)]


@pytest.mark.slow
@pytest.mark.parametrize("bounds", CUTS)
def test_every_token_but_the_first_is_scored_in_every_cut(bounds: tuple[int, ...]) -> None:
    pipeline = llama_pipeline(bounds, chunk=16)
    all_prompts = prompts(5)
    clients = [
        pipeline.submit(f"r{n}", prompt, WITH_LOGPROBS) for n, prompt in enumerate(all_prompts)
    ]
    pipeline.run()
    for client, prompt in zip(clients, all_prompts, strict=True):
        assert client.scores == pytest.approx(scores(prompt), abs=1e-4)
        most_likely = np.argsort(-logprobs(prompt)[:-1], axis=-1)[:, :3]
        assert client.most_likely == most_likely.tolist()
        assert client.tokens == reference_ids(prompt)


@pytest.mark.parametrize("count", [0, 1, 20])
def test_the_requested_number_of_alternatives_arrives(count: int) -> None:
    pipeline = llama_pipeline((0, 2, 5))
    prompt = prompts(1)[0]
    client = pipeline.submit("r", prompt, replace(GREEDY, prompt_logprobs=count))
    pipeline.run()
    most_likely = np.argsort(-logprobs(prompt)[:-1], axis=-1)[:, :count]
    assert client.most_likely == most_likely.tolist()


def test_other_requests_send_no_history_and_get_no_logprobs() -> None:
    pipeline = llama_pipeline((0, 2, 5))
    client = pipeline.submit("r", prompts(1)[0], GREEDY)
    pipeline.run()
    assert client.scores == []
    opened = [op for step in pipeline.steps for op in step.ops if op.op == "open"]
    assert [op.history for op in opened] == [()]


def test_a_cached_prefix_never_replaces_requested_positions() -> None:
    pipeline = llama_pipeline((0, 2, 5))
    prompt = prompts(1, 50)[0] * 3
    pipeline.submit("first", prompt, GREEDY)
    pipeline.run()
    client = pipeline.submit("client", prompt, WITH_LOGPROBS)
    pipeline.run()
    assert client.cached == 0
    assert client.scores == pytest.approx(scores(prompt), abs=1e-4)
    resumed = pipeline.submit("resumed", prompt, WITH_LOGPROBS, scored=20)
    pipeline.run()
    assert resumed.cached == 20
    assert resumed.scores == pytest.approx(scores(prompt)[20:], abs=1e-4)
    done = pipeline.submit("done", prompt, WITH_LOGPROBS, scored=len(prompt) - 1)
    pipeline.run()
    assert done.scores == []
    assert done.cached == len(prompt) - 1


def test_a_resumed_request_without_a_cached_prefix_gets_only_missing_logprobs() -> None:
    pipeline = llama_pipeline((0, 2, 5), chunk=16)
    prompt = prompts(1, 50)[0] * 2
    client = pipeline.submit("r", prompt, WITH_LOGPROBS, scored=37)
    pipeline.run()
    assert client.scores == pytest.approx(scores(prompt)[37:], abs=1e-4)
    assert client.tokens == reference_ids(prompt)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    bounds=st.sampled_from(CUTS),
    requests=st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=8),
    moves=st.lists(st.integers(0, 1000), max_size=200),
)
def test_preempted_and_mixed_requests_get_each_logprob_once_and_in_order(
    bounds: tuple[int, ...], requests: list[tuple[int, bool]], moves: list[int]
) -> None:
    pipeline = llama_pipeline(bounds, chunk=8, cache_tokens=140)
    texts = prompts(10)
    for number, (text, scored) in enumerate(requests):
        pipeline.submit(f"r{number}", texts[text], WITH_LOGPROBS if scored else GREEDY)
    for number in moves:
        possible = pipeline.moves()
        possible[number % len(possible)]()
    pipeline.run()
    for number, (text, scored) in enumerate(requests):
        client = pipeline.clients[f"r{number}"]
        assert client.tokens == reference_ids(texts[text])
        expected = scores(texts[text]) if scored else []
        assert client.scores == pytest.approx(expected, abs=1e-4)


def test_prompt_logprobs_ignore_sampling_parameters() -> None:
    pipeline = llama_pipeline((0, 5))
    prompt = prompts(1)[0]
    sampling = Sampling(
        max_tokens=2,
        temperature=2.0,
        top_k=2,
        repetition_penalty=1.5,
        logit_bias=((3, 50.0),),
        prompt_logprobs=0,
    )
    client = pipeline.submit("r", prompt, sampling)
    pipeline.run()
    assert client.scores == pytest.approx(scores(prompt), abs=1e-4)
