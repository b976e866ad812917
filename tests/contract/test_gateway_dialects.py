"""Anthropic's and Ollama's dialects through their own clients."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, cast

import anthropic
import httpx
import ollama
import pytest

from pomona.messages.pipeline import Rejected
from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Script
from support.models.tiny_model import CONTEXT_LENGTH, TEMPLATE, say, tiny_tokenizer

MODEL = "tiny"
TOKENIZER = tiny_tokenizer()
CHAT_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}<tool_call></think>{% endif %}"
    "{% if enable_thinking %}think!{% endif %}" + TEMPLATE
)
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
REPLY = "<think>hm</think>hello wörld."


@pytest.fixture
def claude(gateway: GatewayThread, fresh: None) -> Generator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def llama(gateway: GatewayThread, fresh: None) -> Generator[ollama.Client]:
    client = ollama.Client(host=gateway.url)
    yield client
    cast("Any", client)._client.close()


def prompt(cluster: ScriptedCluster) -> str:
    return TOKENIZER.decode(cluster.head.requests()[-1].ids, skip_special=False)


def message(claude: anthropic.Anthropic, **change: Any) -> anthropic.types.Message:
    body: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hi"}],
        **change,
    }
    return claude.messages.create(**body)


def test_anthropic_message_has_text_and_usage(
    claude: anthropic.Anthropic, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY, cached=3)
    system = [{"type": "text", "text": "be brief"}]
    reply = message(claude, system=system, extra_body={"temperature": 0.25})
    assert [x.type for x in reply.content] == ["text"]
    assert cast("Any", reply.content[0]).text == "hello wörld."
    assert (reply.stop_reason, reply.stop_sequence) == ("end_turn", None)
    assert reply.usage.cache_read_input_tokens == 3
    assert prompt(cluster).startswith("<|begin|>system\nbe brief<|end|><|begin|>user\nhi<|end|>")
    assert cluster.head.requests()[-1].submit.sampling.temperature == 0.25


def test_anthropic_reports_the_stop_sequence(claude: anthropic.Anthropic) -> None:
    reply = message(claude, stop_sequences=["x", " w"])
    assert cast("Any", reply.content[0]).text == "hello"
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", " w")
    assert message(claude, max_tokens=1).stop_reason == "max_tokens"


def test_anthropic_streams_thinking_text_and_tool_calls_as_blocks(
    claude: anthropic.Anthropic, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY + CALL)
    with claude.messages.stream(
        model=MODEL,
        max_tokens=200,
        messages=[{"role": "user", "content": "hi"}],
        thinking={"type": "enabled", "budget_tokens": 1024},
        tools=[{"name": "weather", "input_schema": {"type": "object"}}],
    ) as stream:
        reply = stream.get_final_message()
    thought, text, call = cast("Any", reply.content)
    assert (thought.type, thought.thinking) == ("thinking", "hm")
    assert (text.type, text.text) == ("text", "hello wörld.")
    assert (call.type, call.name, call.input) == ("tool_use", "weather", {"city": "Rome"})
    assert reply.stop_reason == "tool_use"
    assert "think!" in prompt(cluster)


def test_anthropic_tool_calls_and_results_reach_the_prompt(
    claude: anthropic.Anthropic, cluster: ScriptedCluster
) -> None:
    use = {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Rome"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "text", "text": "sun"}],
    }
    message(
        claude,
        messages=[
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "text", "text": "so"}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
        ],
    )
    result_text = "<tool_response>\nsun\n</tool_response>"
    assert f"user\n{result_text}<|end|><|begin|>user\nand?<|end|>" in prompt(cluster)


def test_anthropic_count_tokens_equals_the_prompt_length(
    claude: anthropic.Anthropic, cluster: ScriptedCluster
) -> None:
    counted = claude.messages.count_tokens(
        model=MODEL, messages=[{"role": "user", "content": "hi"}]
    )
    message(claude)
    assert counted.input_tokens == len(cluster.head.requests()[-1].ids)


def test_anthropic_errors_have_anthropics_form(
    claude: anthropic.Anthropic, cluster: ScriptedCluster
) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        message(claude, model="nope")
    body = cast("dict[str, Any]", missing.value.body)
    assert body["type"] == "error"
    assert body["error"]["type"] == "not_found_error"
    image = {"type": "image", "source": {"type": "url", "url": "x"}}
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\]\.content\[0\]"):
        message(claude, messages=[{"role": "user", "content": [image]}])
    wrong = {"name": "w", "input_schema": {"properties": {"a": {"type": "strin"}}}}
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\]\.input_schema"):
        message(claude, tool_choice={"type": "any"}, tools=[wrong])
    full = Rejected("", 0, 429, "queue_full", "wait", 1)
    cluster.head.script = lambda _: Script(reject=full)
    with pytest.raises(anthropic.RateLimitError):
        message(claude)


def test_ollama_chat_whole_and_streamed(llama: ollama.Client, cluster: ScriptedCluster) -> None:
    messages = [{"role": "user", "content": "hi"}]
    whole = llama.chat(
        model=f"{MODEL}:latest", messages=messages, options={"seed": 5, "stop": ["."]}
    )
    assert whole.message.content == "hello wörld"
    assert whole.message.thinking == "hm"
    assert whole.done_reason == "stop"
    assert whole.prompt_eval_count == len(cluster.head.requests()[-1].ids)
    sampling = cluster.head.requests()[-1].submit.sampling
    assert (sampling.seed, sampling.temperature, sampling.top_k) == (5, 0.8, 40)
    parts = list(llama.chat(model=MODEL, messages=messages, stream=True, think=True))
    assert "".join(x.message.content or "" for x in parts) == "hello wörld."
    assert parts[-1].done
    assert "think!" in prompt(cluster)


def test_ollama_chat_calls_tools(llama: ollama.Client, cluster: ScriptedCluster) -> None:
    cluster.head.script = lambda _: say(CALL)
    tool = {"type": "function", "function": {"name": "weather", "description": "x"}}
    reply = llama.chat(model=MODEL, messages=[{"role": "user", "content": "hi"}], tools=[tool])
    [call] = reply.message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("weather", {"city": "Rome"})


def test_ollama_generate_with_and_without_the_template(
    llama: ollama.Client, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say("hello")
    reply = llama.generate(model=MODEL, prompt="hi", system="be brief")
    assert reply.response == "hello"
    assert prompt(cluster).startswith("<|begin|>system\nbe brief<|end|>")
    parts = llama.generate(model=MODEL, prompt="raw text", raw=True, stream=True)
    assert "".join(x.response or "" for x in parts) == "hello"
    assert prompt(cluster) == "raw text"
    assert llama.generate(model=MODEL).done_reason == "load"


def test_ollama_lists_and_describes_models(llama: ollama.Client, gateway: GatewayThread) -> None:
    assert [x.model for x in llama.list().models] == [MODEL]
    assert [x.model for x in llama.ps().models] == [MODEL]
    shown = llama.show(MODEL)
    assert set(shown.capabilities or []) == {"completion", "tools", "thinking"}
    assert (shown.modelinfo or {})["llama.block_count"] == 2
    assert (shown.modelinfo or {})["general.parameter_count"] == 3
    for details in (shown.details, llama.list().models[0].details, llama.ps().models[0].details):
        assert details
        described = (
            details.format,
            details.family,
            details.parameter_size,
            details.quantization_level,
        )
        assert described == ("folder", "llama", "3", "F32")
    assert llama.ps().models[0].context_length == CONTEXT_LENGTH
    assert httpx.get(f"{gateway.url}/api/version", verify=False).json()["version"]


@pytest.mark.parametrize(
    "change",
    [
        {"format": {"type": "strin"}},
        {"format": "yaml"},
        {"options": {"top_p": 2}},
        {"options": {"num_ctx": "100"}},
        {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]},
        {"model": "nope"},
    ],
)
def test_ollama_errors_have_ollamas_form(gateway: GatewayThread, change: dict[str, Any]) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **change}
    answer = httpx.post(f"{gateway.url}/api/chat", content=json.dumps(body))
    assert answer.status_code == (404 if "model" in change else 400)
    assert list(answer.json()) == ["error"]
    assert isinstance(answer.json()["error"], str)
