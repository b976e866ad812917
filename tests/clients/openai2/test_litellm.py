"""litellm works with only its URL changed, in each API dialect."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import litellm
import pytest
from pydantic import BaseModel

from support.questions import ANSWER, MODEL, QUESTION, WEATHER

USER: list[Any] = [{"role": "user", "content": QUESTION}]
WEATHER_QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
TIMEOUT_S = 90
"""Timeout of a request; litellm's default is ten minutes."""
PROVIDERS = ["openai", "hosted_vllm", "anthropic", "ollama_chat"]


class Verdict(BaseModel):
    """Schema with a few short values, which a grammar makes even a small model complete."""

    colour: Literal["red", "green"]
    sure: bool


def settings(provider: str, url: str, model: str = MODEL) -> dict[str, Any]:
    path = "/v1" if provider in ("openai", "hosted_vllm") else ""
    return {
        "model": f"{provider}/{model}",
        "api_base": f"{url}{path}",
        "api_key": "none",
        "timeout": TIMEOUT_S,
    }


@pytest.mark.parametrize("provider", PROVIDERS)
def test_whole_and_streamed_answers_are_equal_and_report_usage(url: str, provider: str) -> None:
    request = {**settings(provider, url), "messages": USER, "temperature": 0, "max_tokens": 32}
    whole: Any = litellm.completion(**request)
    assert whole.choices[0].message.content == ANSWER
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.completion_tokens > 4
    chunks: Any = litellm.completion(**request, stream=True, stream_options={"include_usage": True})
    read = list(chunks)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in read if chunk.choices) == ANSWER
    )
    assert any(getattr(chunk, "usage", None) for chunk in read)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_tool_call_is_returned_and_its_result_accepted(double_url: str, provider: str) -> None:
    """Uses the scripted model: SmolLM2 would not call by itself."""
    known = settings(provider, double_url, "double")
    request: Any = {**known, "tools": [TOOL], "messages": WEATHER_QUESTION, "max_tokens": 99}
    whole: Any = litellm.completion(**request)
    message = whole.choices[0].message
    [call] = message.tool_calls
    assert whole.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"city": "Rome"},
    )
    read = list(litellm.completion(**request, stream=True))
    rebuilt: Any = litellm.stream_chunk_builder(read, messages=WEATHER_QUESTION)
    [again] = rebuilt.choices[0].message.tool_calls
    assert json.loads(again.function.arguments) == {"city": "Rome"}
    result = {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "sunny"}
    for history in (message, message.model_dump()):
        after: Any = litellm.completion(
            **{**request, "messages": [*WEATHER_QUESTION, history, result]}
        )
        assert after.choices[0].message.content == "It is sunny in Rome."


def test_required_calls_and_response_formats_are_enforced(url: str) -> None:
    known = settings("openai", url)
    called: Any = litellm.completion(
        **known,
        messages=WEATHER_QUESTION,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=100,
    )
    [call] = called.choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"city"}
    formatted: Any = litellm.completion(
        **known,
        messages=[{"role": "user", "content": "Is grass red or green?"}],
        response_format=Verdict,
        max_tokens=40,
    )
    assert Verdict.model_validate_json(formatted.choices[0].message.content)


def test_text_completions_and_responses_give_the_same_answer(url: str) -> None:
    known = settings("text-completion-openai", f"{url}/v1")
    text: Any = litellm.text_completion(
        **known, prompt="The capital of France is", temperature=0, max_tokens=4
    )
    assert "Paris" in text.choices[0].text
    response: Any = litellm.responses(**settings("openai", url), input=QUESTION, temperature=0)
    assert response.output[0].content[0].text == ANSWER


def test_errors_raise_the_clients_exceptions_and_name_the_parameter(url: str) -> None:
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**settings("openai", url), messages=USER, temperature=9)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**settings("openai", url, "no/such"), messages=USER)


def test_the_asynchronous_client_gets_the_same_answer(url: str) -> None:
    async def chat() -> str:
        chunks: Any = await litellm.acompletion(
            **settings("openai", url), messages=USER, temperature=0, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    assert asyncio.run(chat()) == ANSWER
