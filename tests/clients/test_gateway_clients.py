"""The clients people use today get the right answer from a real cluster by changing a URL."""

from __future__ import annotations

from collections.abc import Generator

import anthropic
import ollama
import openai
import pytest

from clusters import ANSWER, MODEL, QUESTION, Cluster


@pytest.fixture
def client(cluster: Cluster) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_chats_whole_and_streamed(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    assert reply.choices[0].message.content == ANSWER
    chunks = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER


def test_openai_reports_probabilities_that_are_some(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(x.token for x in logprobs.content) == ANSWER
    for token in logprobs.content:
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob


def test_openai_draws_the_same_reply_with_the_same_seed(client: openai.OpenAI) -> None:
    def draw(seed: int) -> list[str | None]:
        reply = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Say something."}],
            seed=seed,
            max_tokens=8,
            n=2,
        )
        return [choice.message.content for choice in reply.choices]

    first = draw(1)
    assert draw(1) == first
    assert draw(2)[0] == first[1]


def test_openai_completes_text_and_goes_on_with_a_response(client: openai.OpenAI) -> None:
    text = client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=4
    )
    assert "Paris" in text.choices[0].text
    first = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    assert first.output_text == ANSWER
    second = client.responses.create(
        model=MODEL,
        input="Repeat that.",
        previous_response_id=first.id,
        temperature=0,
        max_output_tokens=12,
    )
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens


def test_anthropic_gets_the_answer_as_a_message(cluster: Cluster) -> None:
    with (
        anthropic.Anthropic(base_url=cluster.url, api_key="none", max_retries=0) as client,
        client.messages.stream(
            model=MODEL,
            max_tokens=32,
            messages=[{"role": "user", "content": QUESTION}],
            extra_body={"temperature": 0},
        ) as stream,
    ):
        assert "".join(stream.text_stream) == ANSWER


def test_ollama_gets_the_answer(cluster: Cluster) -> None:
    with ollama.Client(host=cluster.url) as client:
        reply = client.chat(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            options={"temperature": 0},
        )
    assert reply.message.content == ANSWER
