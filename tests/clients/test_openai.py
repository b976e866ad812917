"""OpenAI's client works with only its URL changed.

This file runs with openai 3, and with openai 2 in an environment of its own (``test_openai2.py``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from typing import Any, Literal, cast

import openai
import pytest
from pydantic import BaseModel

from support.questions import ANSWER, MODEL, QUESTION, WEATHER

USER: list[Any] = [{"role": "user", "content": QUESTION}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather of a city.", "parameters": WEATHER},
}
FLAT_TOOL: Any = {"type": "function", "name": "weather", "parameters": WEATHER}
WEATHER_QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]


class Verdict(BaseModel):
    """Schema with a few short values, which a grammar makes even a small model complete."""

    colour: Literal["red", "green"]
    sure: bool


@pytest.fixture
def client(url: str) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_whole_and_streamed_answers_and_their_usage_are_equal(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=USER, temperature=0)
    assert whole.choices[0].message.content == ANSWER
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=USER,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *texts, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in texts) == ANSWER
    assert len([chunk for chunk in texts if chunk.choices[0].delta.content]) > 1
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens


def test_a_system_prompt_changes_the_answer(client: openai.OpenAI) -> None:
    def introduction(*roles: str) -> str | None:
        prompts: list[Any] = [{"role": role, "content": "Your name is Bob."} for role in roles]
        reply = client.chat.completions.create(
            model=MODEL,
            messages=[*prompts, {"role": "user", "content": "What is your name?"}],
            temperature=0,
            max_tokens=8,
        )
        return reply.choices[0].message.content

    assert introduction("system") == introduction("developer") != introduction()


def test_every_token_has_logprobs_in_descending_order(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=USER, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(x.token for x in logprobs.content) == ANSWER
    for token in logprobs.content:
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob


def test_the_same_seed_draws_the_same_replies(client: openai.OpenAI) -> None:
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


def test_a_required_tool_call_is_streamed_and_its_result_accepted(client: openai.OpenAI) -> None:
    """A grammar forces the call: a model of this size would not call by itself."""
    with client.chat.completions.stream(
        model=MODEL,
        messages=WEATHER_QUESTION,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=100,
    ) as stream:
        deltas = [
            event.arguments_delta
            for event in stream
            if event.type == "tool_calls.function.arguments.delta"
        ]
        final = stream.get_final_completion()
    message = final.choices[0].message
    [call] = message.tool_calls or []
    assert final.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "weather"
    assert "".join(deltas) == call.function.arguments
    assert len(deltas) > 2
    assert set(json.loads(call.function.arguments)) == {"city"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    history = cast("Any", [*WEATHER_QUESTION, message.model_dump(exclude_none=True), result])
    for choice in ("auto", "none"):
        after = client.chat.completions.create(
            model=MODEL, messages=history, tools=[TOOL], tool_choice=choice, max_tokens=4
        )
        assert after.usage is not None
        assert after.usage.completion_tokens > 0


def test_a_parsed_answer_has_the_requested_type(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Is grass red or green? Are you sure?"}]
    chat = client.chat.completions.parse(model=MODEL, messages=messages, response_format=Verdict)
    assert isinstance(chat.choices[0].message.parsed, Verdict)
    response = client.responses.parse(model=MODEL, input=messages, text_format=Verdict)
    assert isinstance(response.output_parsed, Verdict)
    free = client.chat.completions.create(
        model=MODEL,
        messages=messages,
        response_format={"type": "json_object"},
        max_tokens=2,
    )
    assert (free.choices[0].message.content or "").startswith("{")


def test_a_completion_continues_a_text_whole_and_streamed(client: openai.OpenAI) -> None:
    request: Any = {"model": MODEL, "prompt": "The capital of France is", "temperature": 0}
    whole = client.completions.create(**request, max_tokens=4, echo=True)
    assert whole.choices[0].text.startswith("The capital of France is Paris")
    chunks = client.completions.create(**request, max_tokens=4, stream=True)
    assert "Paris" in "".join(chunk.choices[0].text for chunk in chunks)


def test_a_response_is_streamed_stored_continued_and_deleted(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        first = stream.get_final_response()
    assert "".join(deltas) == first.output_text == ANSWER
    assert client.responses.retrieve(first.id).output_text == ANSWER
    second = client.responses.create(
        model=MODEL, input="Repeat that.", previous_response_id=first.id, max_output_tokens=4
    )
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens
    assert second.status == "incomplete"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_a_response_calls_a_function_and_accepts_its_result(client: openai.OpenAI) -> None:
    """A grammar forces the call: a model of this size would not call by itself."""
    with client.responses.stream(
        model=MODEL,
        input="What is the weather in Rome?",
        tools=[FLAT_TOOL],
        tool_choice={"type": "function", "name": "weather"},
        max_output_tokens=100,
    ) as stream:
        deltas = [
            event.delta
            for event in stream
            if event.type == "response.function_call_arguments.delta"
        ]
        first = stream.get_final_response()
    [call] = first.output
    assert call.type == "function_call"
    assert "".join(deltas) == call.arguments
    assert set(json.loads(call.arguments)) == {"city"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(
        model=MODEL,
        input=[result],
        previous_response_id=first.id,
        tools=[FLAT_TOOL],
        max_output_tokens=16,
    )
    assert second.usage is not None
    assert second.usage.output_tokens > 0


def test_errors_raise_the_clients_exceptions_and_name_the_parameter(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=USER, temperature=9)
    assert (bad.value.code, bad.value.param) == ("invalid_value", "temperature")
    assert bad.value.request_id
    unknown = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=USER, max_tokens=4, extra_body={"wings": 2}
    )
    assert unknown.headers["x-pomona-ignored"] == "wings"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no/such", messages=USER)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="embed"):
        client.embeddings.create(model=MODEL, input="x")


def test_accounting_parameters_do_not_change_the_answer(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=USER,
        temperature=0,
        user="somebody",
        metadata={"run": "1"},
        service_tier="auto",
        store=False,
        safety_identifier="x",
        prompt_cache_key="y",
    )
    assert reply.choices[0].message.content == ANSWER


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such")


def test_concurrent_requests_of_the_asynchronous_client_get_the_same_answer(url: str) -> None:
    async def chat(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(
            model=MODEL, messages=USER, temperature=0, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def chat_concurrently() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0
        ) as client:
            return await asyncio.gather(*(chat(client) for _ in range(3)))

    assert asyncio.run(chat_concurrently()) == [ANSWER] * 3
