"""Bodies that real clients send do what the recorded cases expect."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.models.tiny_model import TEMPLATE, say, tiny_tokenizer

MODEL = "SmolLM2-135M-Instruct"
CONTEXT_LENGTH = 16384
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for call in message.tool_calls or [] %}"
    "{{ call.function | tojson }}{% endfor %}{% endfor %}" + TEMPLATE
)
CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "cases" / "api.jsonl").read_text().splitlines()
]
NAMED = {
    "text_part_cache_control": "messages[0].content[0].cache_control",
    "reasoning_details": "messages[1].reasoning_details",
    "assistant_extra_id": "messages[1].id",
    "reasoning_effort_low": "reasoning_effort",
    "verbosity": "verbosity",
    "store_true": "store",
    "cache_prompt": "cache_prompt",
    "prompt_cache_retention": "prompt_cache_retention",
    "tool_cache_control": "tools[0].cache_control",
    "tool_extra_fields": "tools[0].function.returns",
    "a_cache_scope": "system[0].cache_control",
    "a_thinking_adaptive": "thinking",
    "a_effort": "output_config.effort",
    "a_result_image": "messages[2].content[0].content[1].image",
    "a_context_management": "context_management",
    "a_tool_input_examples": "tools[0].input_examples",
    "a_tool_defer_loading": "tools[0].defer_loading",
    "a_server_tool": "tools[0].web_search_20250305",
    "a_tool_use_caller": "messages[1].content[0].caller",
    "a_count_output_config": "output_config.effort",
    "r_include_encrypted": "include",
    "r_reasoning_summary": "reasoning.summary",
    "r_client_metadata": "client_metadata",
    "r_item_reasoning_enc": "input[1].reasoning",
    "r_item_web_search": "input[1].web_search_call",
    "r_tool_web_search": "tools[1].web_search",
    "r_verbosity": "text.verbosity",
    "r_stream_options": "stream_options.include_obfuscation",
    "o_num_ctx_32768": "options.num_ctx",
    "o_num_thread": "options.num_thread",
    "o_think_true": "think",
    "o_truncate": "truncate",
}
"""The path that the header must name, by case."""


def _says_the_city(prompt: str) -> bool:
    return "Paris" in prompt


PROMPTS: dict[str, Callable[[str], bool]] = {
    "content_empty_list_assistant": _says_the_city,
    "tool_content_null": _says_the_city,
    "args_as_object": _says_the_city,
    "refusal_part": lambda prompt: "assistant\nno" in prompt,
    "add_generation_prompt_false": lambda prompt: prompt.endswith("assistant\n1, 2,"),
    "prefill_plain": lambda prompt: prompt.endswith("assistant\n1, 2, 3,"),
    "allowed_tools": lambda prompt: "get_weather" in prompt,
    "custom_tool": lambda prompt: '"name": "x"' in prompt,
    "tools_129": lambda prompt: '"f0"' in prompt and '"f128"' in prompt,
    "legacy_functions": lambda prompt: '"name": "f"' in prompt,
    "a_role_system_mid": lambda prompt: prompt.index("hi") < prompt.index("be brief"),
    "a_result_image": lambda prompt: "see" in prompt,
    "a_server_tool": lambda prompt: "web_search" not in prompt,
    "r_item_custom_call": lambda prompt: "*** Begin" in prompt and "ok" in prompt,
    "r_item_web_search": lambda prompt: "web_search" not in prompt,
    "r_tool_custom": lambda prompt: "apply_patch" in prompt and "start: /a/" in prompt,
    "r_tool_web_search": lambda prompt: "web_search" not in prompt and "get_weather" in prompt,
    "r_tool_namespace": lambda prompt: "get_weather" in prompt,
    "o_content_null": lambda prompt: '"name": "f"' in prompt,
    "o_args_string": lambda prompt: '"arguments": {}' in prompt,
}
"""Condition on the prompt, by case."""


def send(gateway: GatewayThread, case: dict[str, Any]) -> httpx.Response:
    url = gateway.url + case["path"]
    if case["name"] == "gzip":
        plain = next(x["body"] for x in CASES if x["name"] == "trailing_slash")
        return httpx.post(
            url.rstrip("/"),
            content=gzip.compress(json.dumps(plain).encode()),
            headers={"content-encoding": "gzip"},
        )
    return httpx.request(case["method"], url, json=case.get("body"))


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_body_does_what_its_case_expects(
    gateway: GatewayThread, cluster: ScriptedCluster, case: dict[str, Any]
) -> None:
    answer = send(gateway, case)
    expected = re.match(r"(\d+)(?:.*or (\d+))?", case["expect"])
    assert expected is not None
    statuses = {int(status) for status in expected.groups() if status}
    assert answer.status_code in statuses, answer.text
    name = case["name"]
    assert ("header" in case["expect"] or "named" in case["expect"]) == (name in NAMED)
    if name in NAMED:
        assert NAMED[name] in answer.headers["x-pomona-ignored"].split(", ")
    if name in PROMPTS:
        prompt = tiny_tokenizer().decode(cluster.head.submitted[-1].ids, skip_special=True)
        assert PROMPTS[name](prompt), prompt


@pytest.mark.usefixtures("fresh")
def test_image_is_refused_in_plain_words(gateway: GatewayThread) -> None:
    case = next(x for x in CASES if x["name"] == "image_part")
    error = send(gateway, case).json()["error"]
    assert error["param"] == "messages[0].content[1]"
    assert "this model reads no images" in error["message"]


@pytest.mark.usefixtures("fresh")
def test_repeat_penalty_is_the_repetition_penalty(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    send(gateway, next(x for x in CASES if x["name"] == "top_k_0_repeat_penalty"))
    assert cluster.head.submitted[-1].submit.sampling.repetition_penalty == 1.1


@pytest.mark.usefixtures("fresh")
def test_usage_is_in_every_chunk_if_asked_for(gateway: GatewayThread) -> None:
    case = next(x for x in CASES if x["name"] == "continuous_usage_stats")
    lines = send(gateway, case).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert len(chunks) > 2
    assert all(chunk["usage"]["prompt_tokens"] > 0 for chunk in chunks)


@pytest.mark.usefixtures("fresh")
def test_call_of_a_custom_tool_has_a_text_as_input(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    call = '<tool_call>\n{"name": "apply_patch", "arguments": {"input": "*** Begin"}}\n</tool_call>'
    cluster.head.script = lambda _: say(call)
    body = {"model": MODEL, "tools": [{"type": "custom", "name": "apply_patch"}], "input": "go"}
    answer = httpx.post(f"{gateway.url}/v1/responses", json=body).json()
    [item] = answer["output"]
    assert (item["type"], item["name"], item["input"]) == (
        "custom_tool_call", "apply_patch", "*** Begin",
    )  # fmt: skip
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "go"}],
        "tools": [{"type": "custom", "custom": {"name": "apply_patch"}}],
    }
    for stream in (False, True):
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json={**body, "stream": stream})
        if stream:
            lines = answer.text.splitlines()
            chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
            deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
            [calls] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
        else:
            calls = answer.json()["choices"][0]["message"]["tool_calls"]
        assert calls[0]["type"] == "custom"
        assert calls[0]["custom"] == {"name": "apply_patch", "input": "*** Begin"}


CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
WEATHER_TOOL = {"type": "function", "function": {"name": "get_weather"}}
CALLED = {
    "role": "assistant",
    "tool_calls": [{"id": "c", "function": {"name": "get_weather", "arguments": "{}"}}],
}


def _any(prompt: str) -> bool:
    return True


SHAPES: dict[str, tuple[str, dict[str, Any], Callable[[str], bool]]] = {
    "a choice by its type": (
        CHAT,
        {"tools": [WEATHER_TOOL], "tool_choice": {"type": "auto"}},
        _any,
    ),
    "no tools by the choice's type": (
        CHAT,
        {"tools": [WEATHER_TOOL], "tool_choice": {"type": "none"}},
        lambda prompt: "get_weather" not in prompt,
    ),
    "a schema beside its type": (
        CHAT,
        {"response_format": {"type": "json_schema", "schema": {"type": "object"}}},
        _any,
    ),
    "a regular expression as format": (
        CHAT,
        {"response_format": {"type": "regex", "pattern": "a+"}},
        _any,
    ),
    "a grammar as format": (
        CHAT,
        {"response_format": {"type": "grammar", "grammar": 'root ::= "a"'}},
        _any,
    ),
    "a tool's name with a slash": (
        CHAT,
        {"tools": [{"type": "function", "function": {"name": "server/tool"}}]},
        lambda prompt: "server/tool" in prompt,
    ),
    "a result that is an object": (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": "x"},
                CALLED,
                {"role": "tool", "tool_call_id": "c", "content": {"sky": "clear"}},
            ]
        },
        lambda prompt: '{"sky":"clear"}' in prompt,
    ),
    "an output that is an object": (
        RESPONSES,
        {
            "input": [
                {"role": "user", "content": "x"},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": {"sky": "clear"}},
            ]
        },
        lambda prompt: '{"sky":"clear"}' in prompt,
    ),
}


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_other_servers_clients_are_understood(
    gateway: GatewayThread, cluster: ScriptedCluster, name: str
) -> None:
    path, change, holds = SHAPES[name]
    usual = {"messages": [{"role": "user", "content": "x"}]} if path == CHAT else {}
    body = {"model": MODEL, **usual, **change}
    answer = httpx.post(gateway.url + path, json=body)
    assert answer.status_code == 200, answer.text
    submitted = cluster.head.submitted[-1]
    prompt = tiny_tokenizer().decode(submitted.ids, skip_special=True)
    assert holds(prompt), prompt
    constrained = "format" in name or "schema" in name
    assert bool(submitted.submit.sampling.grammar) == constrained
