"""The Responses API through OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any, cast

import httpx
import openai
import pytest

from pomona.messages.pipeline import Rejected
from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Script
from support.models.tiny_model import TEMPLATE, say, tiny_tokenizer

MODEL = "tiny"
TOKENIZER = tiny_tokenizer()
CHAT_TEMPLATE = "{% if tools %}{{ tools | tojson }}<tool_call></think>{% endif %}" + TEMPLATE
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
REPLY = "<think>hm</think>hello wörld."
TOOL: dict[str, Any] = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


def prompt(cluster: ScriptedCluster) -> str:
    return TOKENIZER.decode(cluster.head.requests()[-1].ids, skip_special=False)


def test_whole_response_has_reasoning_text_and_usage(client: openai.OpenAI) -> None:
    reply = client.responses.create(model=MODEL, input="hi", instructions="be brief")
    assert reply.output_text == "hello wörld."
    assert [x.type for x in reply.output] == ["reasoning", "message"]
    assert reply.status == "completed"
    assert reply.usage is not None
    assert reply.usage.output_tokens_details.reasoning_tokens > 0
    short = client.responses.create(model=MODEL, input="hi", max_output_tokens=3)
    assert short.status == "incomplete"


def test_streamed_response_has_the_same_content_and_numbered_events(
    client: openai.OpenAI, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY + CALL)
    events = list(
        client.responses.create(model=MODEL, input="hi", stream=True, tools=cast("Any", [TOOL]))
    )
    assert [x.sequence_number for x in events] == list(range(len(events)))
    text = "".join(x.delta for x in events if x.type == "response.output_text.delta")
    assert text == "hello wörld."
    last = events[-1]
    assert last.type == "response.completed"
    thought, message, call = cast("Any", last.response.output)
    assert (thought.type, message.type, call.type) == ("reasoning", "message", "function_call")
    assert json.loads(call.arguments) == {"city": "Rome"}
    cluster.head.script = lambda _: say(REPLY)
    with client.responses.stream(model=MODEL, input="hi") as stream:
        assert stream.get_final_response().output_text == "hello wörld."


def test_previous_response_id_continues_a_conversation(
    client: openai.OpenAI, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say("hello")
    first = client.responses.create(model=MODEL, input="one", instructions="only now")
    second = client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    client.responses.create(model=MODEL, input="three", previous_response_id=second.id)
    assert prompt(cluster) == (
        "<|begin|>user\none<|end|><|begin|>assistant\nhello<|end|>"
        "<|begin|>user\ntwo<|end|><|begin|>assistant\nhello<|end|>"
        "<|begin|>user\nthree<|end|><|begin|>assistant\n"
    )
    not_stored = client.responses.create(model=MODEL, input="x", store=False)
    for unknown in (not_stored.id, "resp_none"):
        with pytest.raises(openai.BadRequestError, match="evicted"):
            client.responses.create(model=MODEL, input="x", previous_response_id=unknown)


def test_stored_response_can_be_retrieved_until_it_is_deleted(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="one", metadata={"a": "b"})
    streamed = client.responses.create(model=MODEL, input="two", stream=True)
    last = list(streamed)[-1]
    assert last.type == "response.completed"
    for response in (first, last.response):
        assert client.responses.retrieve(response.id) == response
    client.responses.delete(first.id)
    for missing in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="no response"):
            missing(first.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=MODEL, input="x", previous_response_id=first.id)


def test_input_items_of_a_stored_response_are_listed(client: openai.OpenAI) -> None:
    items: list[Any] = [
        {"role": "user", "content": "one"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_mine"},
        {"type": "function_call_output", "call_id": "c", "output": "sun"},
    ]
    stored = client.responses.create(model=MODEL, input=items)
    listed = client.responses.input_items.list(stored.id, order="asc").data
    assert [x.type for x in listed] == ["message", "function_call", "function_call_output"]
    assert cast("Any", listed[0]).content[0].text == "one"
    names = [x.id for x in listed]
    assert len(set(names)) == 3
    assert names[1] == "fc_mine"
    pages = client.responses.input_items.list(stored.id, limit=1)
    assert [x.id for x in pages] == names[::-1]
    text = client.responses.create(model=MODEL, input="hi")
    [message] = client.responses.input_items.list(text.id).data
    assert cast("Any", message).content[0].model_dump(exclude_none=True) == {
        "type": "input_text",
        "text": "hi",
    }
    with pytest.raises(openai.NotFoundError, match="no response"):
        client.responses.input_items.list("resp_none")


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"),
     ("after=none", "after"), ("limit=1&limit=2", "limit")],
)  # fmt: skip
def test_invalid_query_is_400_that_names_the_parameter(
    client: openai.OpenAI, gateway: GatewayThread, query: str, param: str
) -> None:
    stored = client.responses.create(model=MODEL, input="hi")
    answer = httpx.get(f"{gateway.url}/v1/responses/{stored.id}/input_items?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_output_items_are_valid_input(client: openai.OpenAI, cluster: ScriptedCluster) -> None:
    cluster.head.script = lambda _: say(REPLY + CALL)
    first = client.responses.create(model=MODEL, input="hi", tools=cast("Any", [TOOL]))
    items: list[Any] = [{"role": "user", "content": "hi"}]
    items += first.output
    call = cast("Any", first.output[-1])
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "sun"})
    client.responses.create(model=MODEL, input=items, tools=cast("Any", [TOOL]))
    call_text = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    assert f"assistant\nhello wörld.\n{call_text}<|end|>" in prompt(cluster)
    assert "user\n<tool_response>\nsun\n</tool_response><|end|>" in prompt(cluster)


def test_rejected_response_is_503(client: openai.OpenAI, cluster: ScriptedCluster) -> None:
    gone = Rejected("", 0, 503, "gone", "the model went away")
    cluster.head.script = lambda _: Script(reject=gone)
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model=MODEL, input="hi")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"enum": []}}}},
            "text.format.schema",
        ),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "name": "gone"}, "tools": [TOOL]},
            "tool_choice.name",
        ),
        ({"background": True, "store": False}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
    ],
)
def test_unsupported_parameters_are_400_and_named(
    client: openai.OpenAI, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        cast("Any", client.responses).create(model=MODEL, **{"input": "x", **change})
    assert caught.value.param == param
