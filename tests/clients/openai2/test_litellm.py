"""litellm, by changing its URL, over each of the dialects."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import litellm
import pytest
from pydantic import BaseModel

from support.questions import ANSWER, MODEL, QUESTION, WEATHER

USER: list[Any] = [{"role": "user", "content": QUESTION}]
ASKED: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
WITHIN_S = 90
"""For each answer; litellm would wait ten minutes."""
PROVIDERS = ["openai", "hosted_vllm", "anthropic", "ollama_chat"]


class Verdict(BaseModel):
    """What a model of this size can say under a grammar, whatever it thinks."""

    colour: Literal["red", "green"]
    sure: bool


def settings(provider: str, url: str, model: str = MODEL) -> dict[str, Any]:
    path = "/v1" if provider in ("openai", "hosted_vllm") else ""
    return {
        "model": f"{provider}/{model}",
        "api_base": f"{url}{path}",
        "api_key": "none",
        "timeout": WITHIN_S,
    }


@pytest.mark.parametrize("provider", PROVIDERS)
def test_answers_whole_and_streamed_and_counts(url: str, provider: str) -> None:
    asked = {**settings(provider, url), "messages": USER, "temperature": 0, "max_tokens": 32}
    whole: Any = litellm.completion(**asked)
    assert whole.choices[0].message.content == ANSWER
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.completion_tokens > 4
    chunks: Any = litellm.completion(**asked, stream=True, stream_options={"include_usage": True})
    read = list(chunks)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in read if chunk.choices) == ANSWER
    )
    assert any(getattr(chunk, "usage", None) for chunk in read)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_call_and_its_result_go_both_ways(double_url: str, provider: str) -> None:
    """A scripted model stands in: SmolLM2 would not call by itself."""
    known = settings(provider, double_url, "double")
    asked: Any = {**known, "tools": [TOOL], "messages": ASKED, "max_tokens": 99}
    whole: Any = litellm.completion(**asked)
    message = whole.choices[0].message
    [call] = message.tool_calls
    assert whole.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"city": "Rome"},
    )
    read = list(litellm.completion(**asked, stream=True))
    rebuilt: Any = litellm.stream_chunk_builder(read, messages=ASKED)
    [again] = rebuilt.choices[0].message.tool_calls
    assert json.loads(again.function.arguments) == {"city": "Rome"}
    result = {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "sunny"}
    for said in (message, message.model_dump()):
        after: Any = litellm.completion(**{**asked, "messages": [*ASKED, said, result]})
        assert after.choices[0].message.content == "It is sunny in Rome."


def test_a_required_call_and_a_form_are_held_by_a_grammar(url: str) -> None:
    known = settings("openai", url)
    called: Any = litellm.completion(
        **known,
        messages=ASKED,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=100,
    )
    [call] = called.choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"city"}
    held: Any = litellm.completion(
        **known,
        messages=[{"role": "user", "content": "Is grass red or green?"}],
        response_format=Verdict,
        max_tokens=40,
    )
    assert Verdict.model_validate_json(held.choices[0].message.content)


def test_text_and_responses_are_answered_too(url: str) -> None:
    known = settings("text-completion-openai", f"{url}/v1")
    text: Any = litellm.text_completion(
        **known, prompt="The capital of France is", temperature=0, max_tokens=4
    )
    assert "Paris" in text.choices[0].text
    response: Any = litellm.responses(**settings("openai", url), input=QUESTION, temperature=0)
    assert response.output[0].content[0].text == ANSWER


def test_errors_are_the_exceptions_that_say_what_is_wrong(url: str) -> None:
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**settings("openai", url), messages=USER, temperature=9)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**settings("openai", url, "no/such"), messages=USER)


def test_the_asynchronous_client_does_the_same(url: str) -> None:
    async def ask() -> str:
        chunks: Any = await litellm.acompletion(
            **settings("openai", url), messages=USER, temperature=0, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    assert asyncio.run(ask()) == ANSWER
