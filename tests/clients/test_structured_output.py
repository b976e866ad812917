"""Answers of a real cluster match the requested schema, or the schema is refused.

A small model samples the answers, so only their format is checked.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anthropic
import httpx
import jsonschema
import openai
import pytest

from support.clusters import MODEL, Cluster
from support.json_schemas import REFUSED, generated_schemas

USER: list[Any] = [{"role": "user", "content": "Describe a small red house as JSON."}]
CONCURRENCY = 8
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 12},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                },
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "clock",
            "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
        },
    },
]
QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]


@pytest.fixture
def client(cluster: Cluster) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def request_json(http: httpx.Client, schema: dict[str, Any], **more: Any) -> httpx.Response:
    """Requests JSON that matches the schema.

    The temperature is 1: at a low one, this model repeats itself without end.
    """
    form = {"type": "json_schema", "json_schema": {"name": "house", "schema": schema}}
    body = {"model": MODEL, "messages": USER, "response_format": form, "seed": 1, **more}
    sampling = {"max_tokens": 300, "temperature": 1}
    return http.post("/v1/chat/completions", json={**sampling, **body}, timeout=240)


def test_every_answer_validates_or_its_schema_is_refused(http: httpx.Client) -> None:
    finite = [x for x in generated_schemas(200) if "tree" not in x.get("$defs", {})]
    schemas = finite[::14]  # unit/gateway/test_json_schema.py samples all 200
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = list(pool.map(partial(request_json, http), schemas))
    answered = 0
    for schema, answer in zip(schemas, answers, strict=True):
        if answer.status_code == 400:
            error = answer.json()["error"]
            assert error["param"] == "response_format.json_schema.schema", error
            continue
        [choice] = answer.raise_for_status().json()["choices"]
        assert choice["finish_reason"] == "stop", (schema, choice)
        value = json.loads(choice["message"]["content"])
        if "json_schema" not in answer.headers.get("x-pomona-ignored", ""):
            jsonschema.validate(value, schema)
        answered += 1
    assert answered >= len(schemas) * 3 // 4


@pytest.mark.parametrize(("schema", "pointer"), REFUSED)
def test_a_schema_that_no_grammar_can_express_is_refused_with_a_pointer(
    http: httpx.Client, schema: dict[str, Any], pointer: str
) -> None:
    answer = request_json(http, schema)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == "response_format.json_schema.schema"
    assert f"at {pointer!r}" in error["message"] if pointer else " at '/" not in error["message"]


def test_answers_match_regular_expressions_and_choices(client: openai.OpenAI) -> None:
    def answer(**output: Any) -> str:
        reply = client.chat.completions.create(
            model=MODEL, messages=USER, max_tokens=32, extra_body={"structured_outputs": output}
        )
        return reply.choices[0].message.content or ""

    year, month = answer(regex="[0-9]{4}/(0[1-9]|1[0-2])").split("/")
    assert len(year) == 4
    assert 1 <= int(month) <= 12
    assert answer(choice=['a "quoted" one', "é"]) in ('a "quoted" one', "é")
    text = client.completions.create(
        model=MODEL,
        prompt=["Yes or no? ", "No or yes? "],
        extra_body={"structured_outputs": {"choice": ["yes", "no"]}},
    )
    assert {choice.text for choice in text.choices} <= {"yes", "no"}


def test_a_named_tool_is_called_and_its_arguments_validate(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "weather"}},
        n=3,
        max_tokens=200,
    )
    for choice in reply.choices:
        assert choice.finish_reason == "tool_calls"
        [call] = choice.message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "weather"
        arguments = json.loads(call.function.arguments)
        jsonschema.validate(arguments, TOOLS[0]["function"]["parameters"])


def test_the_deltas_of_a_required_call_form_a_whole_call(client: openai.OpenAI) -> None:
    pieces: list[Any] = []
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        stream=True,
        max_tokens=200,
    ):
        pieces += chunk.choices[0].delta.tool_calls or []
    assert {piece.index for piece in pieces} == {0}
    assert pieces[0].function.name in ("weather", "clock")
    arguments = "".join(piece.function.arguments or "" for piece in pieces)
    assert isinstance(json.loads(arguments), dict)


def test_other_dialects_support_schemas_and_required_calls(
    cluster: Cluster, client: openai.OpenAI, http: httpx.Client
) -> None:
    schema = TOOLS[0]["function"]["parameters"]
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    response = client.responses.create(
        model=MODEL, input="Rome, two days.", text=form, max_output_tokens=100
    )
    jsonschema.validate(json.loads(response.output_text), schema)
    chat = http.post(
        "/api/chat", json={"model": MODEL, "messages": USER, "format": schema, "stream": False}
    )
    jsonschema.validate(json.loads(chat.json()["message"]["content"]), schema)
    with anthropic.Anthropic(base_url=cluster.url, api_key="none", max_retries=0) as claude:
        message = claude.messages.create(
            model=MODEL,
            max_tokens=200,
            messages=QUESTION,
            tools=[{"name": "weather", "input_schema": schema}],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
    assert message.stop_reason == "tool_use"
    [use] = message.content
    assert use.type == "tool_use"
    jsonschema.validate(use.input, schema)
