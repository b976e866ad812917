"""Anthropic's client works with only its URL changed."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Literal

import anthropic
import pytest
from pydantic import BaseModel

from support.questions import ANSWER, MODEL, QUESTION, WEATHER

USER: list[Any] = [{"role": "user", "content": QUESTION}]
WEATHER_QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
TOOL: Any = {"name": "weather", "description": "Weather of a city.", "input_schema": WEATHER}
GREEDY: Any = {"extra_body": {"temperature": 0}}


class Verdict(BaseModel):
    """Schema with a few short values, which a grammar makes even a small model complete."""

    colour: Literal["red", "green"]
    sure: bool


@pytest.fixture
def claude(url: str) -> Generator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as claude:
        yield claude


def test_whole_and_streamed_answers_and_their_usage_are_equal(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(model=MODEL, max_tokens=32, messages=USER, **GREEDY)
    [block] = whole.content
    assert block.type == "text"
    assert block.text == ANSWER
    assert whole.stop_reason == "end_turn"
    with claude.messages.stream(model=MODEL, max_tokens=32, messages=USER, **GREEDY) as stream:
        assert "".join(stream.text_stream) == ANSWER
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    counted = claude.messages.count_tokens(model=MODEL, messages=USER)
    cached = whole.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == whole.usage.input_tokens + cached


@pytest.mark.parametrize(
    "header",
    ["x-anthropic-billing-header: cc_version=2.1; cch={n}5b1c", "Current time: 1{n}:05:09"],
)
def test_a_header_that_changes_keeps_the_cached_prefix(
    claude: anthropic.Anthropic, header: str
) -> None:
    rules = " ".join(f"Rule {n}: be brief, {header[:3]}." for n in range(40))

    def usage(n: int) -> anthropic.types.Usage:
        system: Any = [{"type": "text", "text": f"{header.format(n=n)}\n{rules}"}]
        return claude.messages.create(
            model=MODEL, max_tokens=4, messages=USER, system=system, **GREEDY
        ).usage

    first, second = usage(1), usage(2)
    whole = first.input_tokens + (first.cache_read_input_tokens or 0)
    assert whole > 300
    assert (second.cache_read_input_tokens or 0) > 0.9 * whole


def test_a_system_prompt_changes_the_answer(claude: anthropic.Anthropic) -> None:
    def introduction(**system: Any) -> str:
        messages: list[Any] = [{"role": "user", "content": "What is your name?"}]
        reply = claude.messages.create(
            model=MODEL, max_tokens=8, messages=messages, **system, **GREEDY
        )
        [block] = reply.content
        assert block.type == "text"
        return block.text

    blocks = [{"type": "text", "text": "Your name is Bob."}]
    assert introduction(system="Your name is Bob.") == introduction(system=blocks) != introduction()


def test_a_required_tool_call_is_streamed_and_its_result_accepted(
    claude: anthropic.Anthropic,
) -> None:
    """A grammar forces the call: a model of this size would not call by itself."""
    with claude.messages.stream(
        model=MODEL,
        max_tokens=100,
        messages=WEATHER_QUESTION,
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "weather"},
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    [call] = message.content
    assert message.stop_reason == "tool_use"
    assert call.type == "tool_use"
    assert len(pieces) > 2
    assert set(call.input) == {"city"}
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    history: list[Any] = [
        *WEATHER_QUESTION,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    after = claude.messages.create(model=MODEL, max_tokens=4, messages=history, tools=[TOOL])
    assert after.usage.output_tokens > 0


def test_a_parsed_answer_has_the_requested_type(claude: anthropic.Anthropic) -> None:
    messages: list[Any] = [{"role": "user", "content": "Is grass red or green? Are you sure?"}]
    message = claude.messages.parse(
        model=MODEL, max_tokens=40, messages=messages, output_format=Verdict
    )
    assert isinstance(message.parsed_output, Verdict)


def test_errors_raise_the_clients_exceptions_and_name_the_parameter(
    claude: anthropic.Anthropic,
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        claude.messages.create(
            model=MODEL, max_tokens=4, messages=USER, extra_body={"temperature": 9}
        )
    with (
        pytest.raises(anthropic.NotFoundError) as missing,
        claude.messages.stream(model="no/such", max_tokens=4, messages=USER),
    ):
        pass
    assert missing.value.type == "not_found_error"
    assert missing.value.request_id


def test_models_are_listed_and_retrieved(claude: anthropic.Anthropic) -> None:
    [model] = [model for model in claude.models.list() if model.id == MODEL]
    assert model.type == "model"
    assert model.display_name == MODEL
    assert model.created_at.year >= 2026
    assert claude.models.retrieve(MODEL) == model
    with pytest.raises(anthropic.NotFoundError):
        claude.models.retrieve("no/such")


def test_the_asynchronous_client_gets_the_same_answer(url: str) -> None:
    async def chat() -> str:
        async with (
            anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as claude,
            claude.messages.stream(model=MODEL, max_tokens=32, messages=USER, **GREEDY) as stream,
        ):
            return await stream.get_final_text()

    assert asyncio.run(chat()) == ANSWER
