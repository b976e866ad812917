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
from support.models.random_llama import CUTS, GREEDY, alone, model, pipeline, prompts

ASKED = replace(GREEDY, prompt_logprobs=3)


def logprobs(prompt: Sequence[int]) -> np.ndarray:
    """Returns the uncut model's logprobs after each token, float32 (len(prompt), vocabulary)."""
    logits = model()(mx.array([list(prompt)]))[0]
    return np.asarray(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def scores(prompt: Sequence[int]) -> list[float]:
    return [float(row[token]) for row, token in zip(logprobs(prompt), prompt[1:], strict=False)]


@pytest.mark.parametrize("bounds", CUTS)
def test_every_token_but_the_first_is_scored_in_every_cut(bounds: tuple[int, ...]) -> None:
    line = pipeline(bounds, chunk=16)
    wanted = prompts(5)
    clients = [line.submit(f"r{n}", prompt, ASKED) for n, prompt in enumerate(wanted)]
    line.run()
    for client, prompt in zip(clients, wanted, strict=True):
        assert client.scores == pytest.approx(scores(prompt), abs=1e-4)
        likeliest = np.argsort(-logprobs(prompt)[:-1], axis=-1)[:, :3]
        assert client.likeliest == likeliest.tolist()
        assert client.tokens == alone(prompt)


@pytest.mark.parametrize("count", [0, 1, 20])
def test_the_requested_number_of_alternatives_arrives(count: int) -> None:
    line = pipeline((0, 2, 5))
    prompt = prompts(1)[0]
    client = line.submit("r", prompt, replace(GREEDY, prompt_logprobs=count))
    line.run()
    likeliest = np.argsort(-logprobs(prompt)[:-1], axis=-1)[:, :count]
    assert client.likeliest == likeliest.tolist()


def test_other_requests_send_no_history_and_get_no_logprobs() -> None:
    line = pipeline((0, 2, 5))
    client = line.submit("r", prompts(1)[0], GREEDY)
    line.run()
    assert client.scores == []
    opened = [op for step in line.steps for op in step.ops if op.op == "open"]
    assert [op.history for op in opened] == [()]


def test_a_cached_prefix_never_replaces_requested_positions() -> None:
    line = pipeline((0, 2, 5))
    prompt = prompts(1, 50)[0] * 3
    line.submit("first", prompt, GREEDY)
    line.run()
    asking = line.submit("asking", prompt, ASKED)
    line.run()
    assert asking.cached == 0
    assert asking.scores == pytest.approx(scores(prompt), abs=1e-4)
    resumed = line.submit("resumed", prompt, ASKED, scored=20)
    line.run()
    assert resumed.cached == 20
    assert resumed.scores == pytest.approx(scores(prompt)[20:], abs=1e-4)
    done = line.submit("done", prompt, ASKED, scored=len(prompt) - 1)
    line.run()
    assert done.scores == []
    assert done.cached == len(prompt) - 1


def test_a_resumed_request_without_a_cached_prefix_gets_only_missing_logprobs() -> None:
    line = pipeline((0, 2, 5), chunk=16)
    prompt = prompts(1, 50)[0] * 2
    client = line.submit("r", prompt, ASKED, scored=37)
    line.run()
    assert client.scores == pytest.approx(scores(prompt)[37:], abs=1e-4)
    assert client.tokens == alone(prompt)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    bounds=st.sampled_from(CUTS),
    asked=st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=8),
    moves=st.lists(st.integers(0, 1000), max_size=200),
)
def test_preempted_and_mixed_requests_get_each_logprob_once_and_in_order(
    bounds: tuple[int, ...], asked: list[tuple[int, bool]], moves: list[int]
) -> None:
    line = pipeline(bounds, chunk=8, cache_tokens=140)
    texts = prompts(10)
    for number, (text, scored) in enumerate(asked):
        line.submit(f"r{number}", texts[text], ASKED if scored else GREEDY)
    for number in moves:
        possible = line.moves()
        possible[number % len(possible)]()
    line.run()
    for number, (text, scored) in enumerate(asked):
        client = line.clients[f"r{number}"]
        assert client.tokens == alone(texts[text])
        expected = scores(texts[text]) if scored else []
        assert client.scores == pytest.approx(expected, abs=1e-4)


def test_prompt_logprobs_ignore_sampling_parameters() -> None:
    line = pipeline((0, 5))
    prompt = prompts(1)[0]
    sampling = Sampling(
        max_tokens=2,
        temperature=2.0,
        top_k=2,
        repetition_penalty=1.5,
        logit_bias=((3, 50.0),),
        prompt_logprobs=0,
    )
    client = line.submit("r", prompt, sampling)
    line.run()
    assert client.scores == pytest.approx(scores(prompt), abs=1e-4)
