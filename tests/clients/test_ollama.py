"""Ollama's client works with only its URL changed."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Literal

import ollama
import pytest
from pydantic import BaseModel

from support.questions import ANSWER, MODEL, QUESTION

USER: list[Any] = [{"role": "user", "content": QUESTION}]
GREEDY = {"temperature": 0}


class Verdict(BaseModel):
    """Schema with a few short values, which a grammar makes even a small model complete."""

    colour: Literal["red", "green"]
    sure: bool


@pytest.fixture
def client(url: str) -> Generator[ollama.Client]:
    with ollama.Client(host=url) as client:
        yield client


def test_whole_and_streamed_answers_and_their_usage_are_equal(client: ollama.Client) -> None:
    whole = client.chat(model=MODEL, messages=USER, options=GREEDY)
    assert whole.message.content == ANSWER
    assert whole.done_reason == "stop"
    *parts, last = client.chat(model=f"{MODEL}:latest", messages=USER, options=GREEDY, stream=True)
    assert "".join(part.message.content or "" for part in parts) == ANSWER
    assert last.done
    assert (last.prompt_eval_count, last.eval_count) == (whole.prompt_eval_count, whole.eval_count)
    assert last.total_duration


def test_generate_continues_a_text_and_applies_a_system_prompt(client: ollama.Client) -> None:
    raw = client.generate(
        model=MODEL,
        prompt="The capital of France is",
        raw=True,
        options={**GREEDY, "num_predict": 4},
    )
    assert "Paris" in (raw.response or "")

    def introduction(**system: Any) -> str:
        short = {**GREEDY, "num_predict": 8}
        parts = client.generate(
            model=MODEL, prompt="What is your name?", options=short, stream=True, **system
        )
        return "".join(part.response or "" for part in parts)

    assert introduction(system="Your name is Bob.") != introduction()


def test_an_answer_has_the_requested_format(client: ollama.Client) -> None:
    messages: list[Any] = [{"role": "user", "content": "Is grass red or green? Are you sure?"}]
    formatted = client.chat(model=MODEL, messages=messages, format=Verdict.model_json_schema())
    assert Verdict.model_validate_json(formatted.message.content or "")
    free = client.chat(model=MODEL, messages=messages, format="json", options={"num_predict": 2})
    assert (free.message.content or "").startswith("{")


def test_a_tool_call_is_returned_and_its_result_accepted(double_url: str) -> None:
    """Uses the scripted model: Ollama's API cannot require a call, and SmolLM2 would not."""

    def weather(city: str) -> str:
        """Weather of a city.

        Args:
            city: its name
        """
        return f"sunny in {city}"

    messages: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
    with ollama.Client(host=double_url) as client:
        for stream in (False, True):
            request: Any = {"model": "double", "messages": messages, "tools": [weather]}
            answer: Any = client.chat(**request, stream=stream)
            parts = list(answer) if stream else [answer]
            [called] = [part for part in parts if part.message.tool_calls]
            [call] = called.message.tool_calls
            assert (call.function.name, call.function.arguments) == ("weather", {"city": "Rome"})
            result = {"role": "tool", "tool_name": "weather", "content": weather("Rome")}
            after = client.chat(model="double", messages=[*messages, called.message, result])
            assert after.message.content == "It is sunny in Rome."


def test_errors_raise_the_clients_exception_and_name_the_parameter(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="temperature") as bad:
        client.chat(model=MODEL, messages=USER, options={"temperature": 9})
    assert bad.value.status_code == 400
    with pytest.raises(ollama.ResponseError) as missing:
        list(client.chat(model="no/such", messages=USER, stream=True))
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError):
        client.embed(model=MODEL, input="x")


def test_models_are_listed_and_shown(client: ollama.Client) -> None:
    assert MODEL in [model.model for model in client.list().models]
    assert MODEL in [model.model for model in client.ps().models]
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo
    assert shown.details
    assert (shown.details.parameter_size, shown.details.quantization_level) == ("134.52M", "Q4_1")
    with pytest.raises(ollama.ResponseError):
        client.show("no/such")


def test_the_asynchronous_client_gets_the_same_answer(url: str) -> None:
    async def chat() -> str:
        async with ollama.AsyncClient(host=url) as client:
            parts = await client.chat(model=MODEL, messages=USER, options=GREEDY, stream=True)
            return "".join([part.message.content or "" async for part in parts])

    assert asyncio.run(chat()) == ANSWER
