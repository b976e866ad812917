"""Anthropic's client, by changing its URL."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Literal

import anthropic
import pytest
from pydantic import BaseModel

from support.questions import ANSWER, MODEL, QUESTION, WEATHER

USER: list[Any] = [{"role": "user", "content": QUESTION}]
ASKED: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
TOOL: Any = {"name": "weather", "description": "Weather of a city.", "input_schema": WEATHER}
DRAWN: Any = {"extra_body": {"temperature": 0}}


class Verdict(BaseModel):
    """What a model of this size can say under a grammar, whatever it thinks."""

    colour: Literal["red", "green"]
    sure: bool


@pytest.fixture
def claude(url: str) -> Generator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as claude:
        yield claude


def test_answers_whole_and_streamed_and_counts_the_same(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(model=MODEL, max_tokens=32, messages=USER, **DRAWN)
    [block] = whole.content
    assert block.type == "text"
    assert block.text == ANSWER
    assert whole.stop_reason == "end_turn"
    with claude.messages.stream(model=MODEL, max_tokens=32, messages=USER, **DRAWN) as stream:
        assert "".join(stream.text_stream) == ANSWER
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    counted = claude.messages.count_tokens(model=MODEL, messages=USER)
    cached = whole.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == whole.usage.input_tokens + cached


def test_a_system_prompt_changes_the_answer(claude: anthropic.Anthropic) -> None:
    def introduced(**system: Any) -> str:
        asked: list[Any] = [{"role": "user", "content": "What is your name?"}]
        reply = claude.messages.create(model=MODEL, max_tokens=8, messages=asked, **system, **DRAWN)
        [block] = reply.content
        assert block.type == "text"
        return block.text

    blocks = [{"type": "text", "text": "Your name is Bob."}]
    assert introduced(system="Your name is Bob.") == introduced(system=blocks) != introduced()


def test_a_required_call_streams_and_its_result_goes_back(claude: anthropic.Anthropic) -> None:
    """The call is held by a grammar: a model of this size would not call by itself."""
    with claude.messages.stream(
        model=MODEL,
        max_tokens=100,
        messages=ASKED,
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
        *ASKED,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    after = claude.messages.create(model=MODEL, max_tokens=4, messages=history, tools=[TOOL])
    assert after.usage.output_tokens > 0


def test_a_parsed_answer_has_the_type_that_was_asked_for(claude: anthropic.Anthropic) -> None:
    asked: list[Any] = [{"role": "user", "content": "Is grass red or green? Are you sure?"}]
    message = claude.messages.parse(
        model=MODEL, max_tokens=40, messages=asked, output_format=Verdict
    )
    assert isinstance(message.parsed_output, Verdict)


def test_errors_are_the_exceptions_that_say_what_is_wrong(claude: anthropic.Anthropic) -> None:
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


def test_models_are_listed_and_found(claude: anthropic.Anthropic) -> None:
    [model] = [model for model in claude.models.list() if model.id == MODEL]
    assert model.type == "model"
    assert model.display_name == MODEL
    assert model.created_at.year >= 2026
    assert claude.models.retrieve(MODEL) == model
    with pytest.raises(anthropic.NotFoundError):
        claude.models.retrieve("no/such")


def test_the_asynchronous_client_does_the_same(url: str) -> None:
    async def ask() -> str:
        async with (
            anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as claude,
            claude.messages.stream(model=MODEL, max_tokens=32, messages=USER, **DRAWN) as stream,
        ):
            return await stream.get_final_text()

    assert asyncio.run(ask()) == ANSWER
