"""instructor works with only its URL changed.

Grammars make SmolLM2 follow a schema. Modes in which the model itself must follow it use a
scripted model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Literal

import instructor
import openai
import pytest
from pydantic import BaseModel

from support.questions import MODEL

GRASS: list[Any] = [{"role": "user", "content": "Is grass red or green? Are you sure?"}]
JOKE: list[Any] = [{"role": "user", "content": "Tell me a joke about cats."}]


class Verdict(BaseModel):
    """Schema with a few short values, which a grammar makes even a small model complete."""

    colour: Literal["red", "green"]
    sure: bool


class Joke(BaseModel):
    setup: str
    punchline: str


@pytest.fixture
def client(url: str) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(
    "mode",
    [
        instructor.Mode.TOOLS,
        instructor.Mode.TOOLS_STRICT,
        instructor.Mode.JSON_SCHEMA,
    ],
)
def test_an_answer_has_the_requested_type(client: openai.OpenAI, mode: instructor.Mode) -> None:
    patched = instructor.from_openai(client, mode=mode)
    verdict, raw = patched.chat.completions.create_with_completion(
        model=MODEL, messages=GRASS, response_model=Verdict, max_retries=0, max_tokens=60
    )
    assert isinstance(verdict, Verdict)
    assert raw.usage.completion_tokens > 0


@pytest.mark.parametrize(
    "mode", [instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.MD_JSON]
)
def test_partial_and_whole_objects_are_equal_in_any_mode(
    double_url: str, mode: instructor.Mode
) -> None:
    with openai.OpenAI(base_url=f"{double_url}/v1", api_key="none", max_retries=0) as client:
        patched = instructor.from_openai(client, mode=mode)
        known: Any = {"model": "double", "messages": JOKE, "max_retries": 0}
        joke = patched.chat.completions.create(response_model=Joke, **known)
        assert joke.punchline == "It was warm."
        *parts, last = patched.chat.completions.create_partial(response_model=Joke, **known)
        assert last.model_dump() == joke.model_dump()
        assert any(part.setup is None or part.punchline is None for part in parts)


def test_several_objects_are_streamed_one_by_one(double_url: str) -> None:
    """Uses the scripted model: SmolLM2 returns an empty list, which the schema allows."""
    with openai.OpenAI(base_url=f"{double_url}/v1", api_key="none", max_retries=0) as client:
        patched = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
        jokes = patched.chat.completions.create_iterable(
            model="double", messages=JOKE, response_model=Joke, max_retries=0
        )
        assert [joke.punchline for joke in jokes] == ["It was warm."] * 2


def test_an_error_names_the_parameter(client: openai.OpenAI) -> None:
    patched = instructor.from_openai(client)
    with pytest.raises(Exception, match="temperature"):
        patched.chat.completions.create(
            model=MODEL, messages=GRASS, response_model=Verdict, max_retries=0, temperature=9
        )


def test_the_asynchronous_client_gets_the_same_answer(url: str) -> None:
    async def chat() -> Verdict:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0
        ) as client:
            patched = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
            return await patched.chat.completions.create(
                model=MODEL, messages=GRASS, response_model=Verdict, max_tokens=60
            )

    assert isinstance(asyncio.run(chat()), Verdict)
