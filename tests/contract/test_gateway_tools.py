"""Tool calls and reasoning of chats through OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any, cast

import httpx
import openai
import pytest

from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Script
from support.models.tiny_model import TEMPLATE, say, tiny_tokenizer
from support.waiting import wait_until

MODEL = "tiny"
TOKENIZER = tiny_tokenizer()
REASONING = (
    "{% if message.reasoning_content %}{{ '<think>' + message.reasoning_content + '</think>' }}"
    "{% endif %}"
)
CALLS = (
    "{% for call in message.tool_calls or [] %}"
    "{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}"
    "{% endfor %}"
)
CHAT_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if reasoning_effort %}{{ reasoning_effort }}{% endif %}"
    + TEMPLATE.replace(
        "{{ '<|begin|>' + message.role + '\\n' + message.content + '<|end|>' }}",
        "{{ '<|begin|>' + message.role + '\\n' }}"
        + REASONING
        + "{{ message.content }}"
        + CALLS
        + "{{ '<|end|>' }}",
    )
)
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "%s"}}</tool_call>'
REPLY = "<think>hm</think>Let me see." + CALL % "Rome" + CALL % "Oslo"


def make_tool(parameters: dict[str, Any], strict: bool) -> dict[str, Any]:
    function = {"name": "held", "parameters": parameters, "strict": strict}
    return {"type": "function", "function": function}


def post(gateway: GatewayThread, **body: Any) -> httpx.Response:
    whole = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **body}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=whole, verify=False)


def test_whole_reply_has_tool_calls_and_reasoning(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], tools=cast("Any", [TOOL])
    )
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls"
    assert message.content == "Let me see."
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == "hm"
    calls = [json.loads(x.function.arguments) for x in cast("Any", message.tool_calls)]
    assert calls == [{"city": "Rome"}, {"city": "Oslo"}]
    assert len({x.id for x in message.tool_calls or []}) == 2


def test_streamed_reply_has_the_same_tool_calls_in_pieces(client: openai.OpenAI) -> None:
    pieces: list[Any] = []
    finish = None
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hi"}],
        tools=cast("Any", [TOOL]),
        stream=True,
    ):
        pieces += chunk.choices[0].delta.tool_calls or []
        finish = chunk.choices[0].finish_reason or finish
    assert finish == "tool_calls"
    for index, city in enumerate(("Rome", "Oslo")):
        first, *others = [x for x in pieces if x.index == index]
        assert (first.id[:5], first.type) == ("call_", "function")
        assert (first.function.name, first.function.arguments) == ("weather", "")
        assert len(others) > 1
        assert not any(x.id or x.function.name for x in others)
        assert json.loads("".join(x.function.arguments for x in others)) == {"city": city}


def test_tool_call_cut_by_max_tokens_is_returned_incomplete(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cut = TOKENIZER.encode(REPLY[: REPLY.rindex("lo")], chat=True)
    cluster.head.script = lambda _: Script(ids=tuple(cut))
    [choice] = post(gateway, tools=[TOOL]).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][1]["function"]["arguments"] == '{"city": "Os'


def test_beginning_of_a_call_that_max_tokens_cuts_is_not_content(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cut = TOKENIZER.encode(REPLY[: REPLY.index("weather")], chat=True)
    cluster.head.script = lambda _: Script(ids=tuple(cut))
    [choice] = post(gateway, tools=[TOOL]).json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("length", "Let me see.")


def test_reply_ends_after_one_tool_call_without_parallel_tool_calls(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.cancelled.clear()
    cluster.head.script = lambda _: say(REPLY * 3, step_s=0.001)
    body = post(gateway, tools=[TOOL], parallel_tool_calls=False).json()
    assert len(body["choices"][0]["message"]["tool_calls"]) == 1
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    wait_until(lambda: cluster.head.cancelled, "a cancel")


def test_functions_are_answered_with_a_function_call(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY)
    function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    choice = post(gateway, functions=[function]).json()["choices"][0]
    assert choice["finish_reason"] == "function_call"
    called = {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert choice["message"]["function_call"] == called
    assert "tool_calls" not in choice["message"]
    answer = post(gateway, functions=[function], stream=True)
    lines = [x[6:] for x in answer.text.splitlines() if x.startswith("data: {")]
    choices = [x for line in lines for x in json.loads(line)["choices"]]
    pieces = [x["delta"]["function_call"] for x in choices if "function_call" in x["delta"]]
    assert pieces[0]["name"] == "weather"
    assert "".join(piece.get("arguments", "") for piece in pieces) == called["arguments"]
    assert choices[-1]["finish_reason"] == "function_call"


def test_reasoning_that_a_continued_message_opens_goes_on(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say("three</think>Done.")
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "<think>One, two,"},
    ]
    message = post(gateway, messages=messages).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("three", "Done.")


def test_parts_of_a_schema_that_are_not_checked_are_named(gateway: GatewayThread) -> None:
    schema = {"type": "array", "items": {"type": "string", "format": "zip"}, "uniqueItems": True}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = post(gateway, response_format=response_format, max_tokens=4)
    assert answer.status_code == 200
    assert "response_format.json_schema.schema.uniqueItems" in answer.headers["x-pomona-ignored"]


def test_tool_calls_and_results_reach_the_prompt(
    client: openai.OpenAI, cluster: ScriptedCluster
) -> None:
    first = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], tools=cast("Any", [TOOL])
    )
    message = first.choices[0].message
    client.chat.completions.create(
        model=MODEL,
        messages=cast(
            "Any",
            [
                {"role": "user", "content": "hi"},
                message.model_dump(),
                {"role": "tool", "content": "sunny", "tool_call_id": "x"},
            ],
        ),
        tools=cast("Any", [TOOL]),
    )
    prompt = TOKENIZER.decode(cluster.head.requests()[-1].ids)
    assert CALL % "Rome" + CALL % "Oslo" in prompt
    assert "tool\nsunny" in prompt


def test_tool_choice_none_hides_the_tools(gateway: GatewayThread, cluster: ScriptedCluster) -> None:
    body = post(gateway, tools=[TOOL], tool_choice="none").json()
    assert "tool_calls" not in body["choices"][0]["message"]
    assert "weather" not in TOKENIZER.decode(cluster.head.requests()[-1].ids)


def test_reasoning_effort_reaches_the_template(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    post(gateway, reasoning_effort="high")
    assert TOKENIZER.decode(cluster.head.requests()[-1].ids).startswith("high")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice.function.name",
        ),
        (
            {"tool_choice": "required", "tools": [make_tool({"type": "strin"}, strict=False)]},
            "tools[0].function.parameters",
        ),
        (
            {"tools": [TOOL, make_tool({"properties": {"a": {"contains": {}}}}, strict=True)]},
            "tools[1].function.parameters",
        ),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "retrieval"}], "tool_choice": "required"}, "tool_choice"),
    ],
)  # fmt: skip
def test_invalid_tools_are_400_and_named(
    gateway: GatewayThread, change: dict[str, Any], param: str
) -> None:
    answer = post(gateway, **{"tools": [TOOL], **change})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"city": "Rome"}', '{"city": "Rome"}'),
        ('{"city": "Rome", "day": "Mon', '{"city": "Rome"}'),
        ("", "{}"),
        ("Rome", '{"INVALID_JSON": "Rome"}'),
        ("[" * 300, '{"INVALID_JSON": "' + "[" * 300 + '"}'),
    ],
)
def test_incomplete_arguments_of_earlier_calls_are_repaired(
    gateway: GatewayThread, cluster: ScriptedCluster, written: str, read: str
) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": written}}
    answer = post(gateway, messages=[{"role": "assistant", "tool_calls": [call]}], tools=[TOOL])
    assert answer.status_code == 200
    call_text = f'<tool_call>{{"name": "f", "arguments": {read}}}</tool_call>'
    assert call_text in TOKENIZER.decode(cluster.head.requests()[-1].ids)


def test_grammar_is_used_only_where_the_request_needs_one(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    def grammar(**body: Any) -> str:
        assert post(gateway, **{"tools": [TOOL], **body}).status_code == 200
        return cluster.head.requests()[-1].submit.sampling.grammar

    named = {"type": "function", "function": {"name": "weather"}}
    assert grammar() == ""
    assert grammar(tool_choice="none", tools=[make_tool({}, strict=True)]) == ""
    assert "<tool_call>" in grammar(tool_choice="required")
    assert "held" not in grammar(tool_choice=named, tools=[TOOL, make_tool({}, strict=False)])
    assert "held" in grammar(tools=[TOOL, make_tool({}, strict=True)])
    assert "%json" in grammar(response_format={"type": "json_object"})


@pytest.mark.parametrize(
    ("syntax", "definition", "used"),
    [
        ("lark", 'start: "*** " /[a-z]{1,9}/', True),
        ("regex", r"[a-z]{1,9}/x", True),
        ("lark", "start: %nonsense", False),
        ("regex", r"(?=a)b", False),
    ],
)
def test_a_custom_tool_that_may_be_called_has_its_grammar(
    gateway: GatewayThread, cluster: ScriptedCluster, syntax: str, definition: str, used: bool
) -> None:
    form = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    custom = {"type": "custom", "custom": {"name": "patch", "format": form}}
    answer = post(gateway, tools=[TOOL, custom])
    assert answer.status_code == 200, answer.text
    assert bool(cluster.head.requests()[-1].submit.sampling.grammar) == used
    named = "tools[1].custom.format" in answer.headers.get("x-pomona-ignored", "")
    assert named != used


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        ({"properties": {}}, True),
        ({"properties": {"a": {"type": "string"}}}, True),
        ({"properties": {}, "additionalProperties": {"type": "string"}}, False),
        ({"properties": {}, "patternProperties": {"^x": {"type": "string"}}}, False),
        ({"properties": {}, "anyOf": [{"properties": {"a": {}}}]}, False),
        ({}, False),
    ],
)
def test_unlisted_arguments_are_excluded_only_from_closed_schemas(
    gateway: GatewayThread, cluster: ScriptedCluster, schema: dict[str, Any], closed: bool
) -> None:
    answer = post(gateway, tool_choice="required", tools=[make_tool(schema, strict=False)])
    assert answer.status_code == 200, answer.text
    grammar = cluster.head.requests()[-1].submit.sampling.grammar
    assert ('"additionalProperties": false' in grammar) == closed
