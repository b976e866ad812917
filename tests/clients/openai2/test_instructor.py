"""instructor, by changing its URL. Grammars hold what SmolLM2 says; for modes in which a schema
is only read by the model, a scripted one stands in."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Literal

import instructor
import openai
import pytest
from pydantic import BaseModel

from support.questions import MODEL

ASKED: list[Any] = [{"role": "user", "content": "Is grass red or green? Are you sure?"}]
JOKE: list[Any] = [{"role": "user", "content": "Tell me a joke about cats."}]


class Verdict(BaseModel):
    """What a model of this size can say under a grammar, whatever it thinks."""

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
def test_an_answer_has_the_type_that_was_asked_for(
    client: openai.OpenAI, mode: instructor.Mode
) -> None:
    patched = instructor.from_openai(client, mode=mode)
    verdict, raw = patched.chat.completions.create_with_completion(
        model=MODEL, messages=ASKED, response_model=Verdict, max_retries=0, max_tokens=60
    )
    assert isinstance(verdict, Verdict)
    assert raw.usage.completion_tokens > 0


@pytest.mark.parametrize(
    "mode", [instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.MD_JSON]
)
def test_an_able_model_tells_jokes_in_any_mode(double_url: str, mode: instructor.Mode) -> None:
    with openai.OpenAI(base_url=f"{double_url}/v1", api_key="none", max_retries=0) as client:
        patched = instructor.from_openai(client, mode=mode)
        known: Any = {"model": "double", "messages": JOKE, "max_retries": 0}
        joke = patched.chat.completions.create(response_model=Joke, **known)
        assert joke.punchline == "It was warm."
        *parts, last = patched.chat.completions.create_partial(response_model=Joke, **known)
        assert last.model_dump() == joke.model_dump()
        assert any(part.setup is None or part.punchline is None for part in parts)


def test_several_are_streamed_one_by_one(double_url: str) -> None:
    """A scripted model stands in: SmolLM2 tells none, which the schema allows."""
    with openai.OpenAI(base_url=f"{double_url}/v1", api_key="none", max_retries=0) as client:
        patched = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
        jokes = patched.chat.completions.create_iterable(
            model="double", messages=JOKE, response_model=Joke, max_retries=0
        )
        assert [joke.punchline for joke in jokes] == ["It was warm."] * 2


def test_errors_say_what_is_wrong(client: openai.OpenAI) -> None:
    patched = instructor.from_openai(client)
    with pytest.raises(Exception, match="temperature"):
        patched.chat.completions.create(
            model=MODEL, messages=ASKED, response_model=Verdict, max_retries=0, temperature=9
        )


def test_the_asynchronous_client_does_the_same(url: str) -> None:
    async def ask() -> Verdict:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0
        ) as client:
            patched = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
            return await patched.chat.completions.create(
                model=MODEL, messages=ASKED, response_model=Verdict, max_tokens=60
            )

    assert isinstance(asyncio.run(ask()), Verdict)
