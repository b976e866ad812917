"""Whatever comes in, the answer is an error that says why, or the thing asked for."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import pytest

from doubles.gateway_thread import GatewayThread

MODEL = "tiny"
MUTATIONS = 150
JUNK: list[Any] = [
    None, True, -1, 0, 1.5, 2**70, "", "x", "\x00", "\ud7ff", [], {}, [[]], {"a": {}}, ["x"] * 50,
    [{"type": "text", "text": "x"}], {"type": "function"}, 1e308, "9" * 400,
]  # fmt: skip
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
MESSAGES = [
    {"role": "system", "content": "x"},
    {"role": "user", "content": [{"type": "text", "text": "x"}]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]},
    {"role": "tool", "content": "x", "tool_call_id": "c"},
]  # fmt: skip
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": MODEL, "messages": MESSAGES, "temperature": 1, "top_p": 0.5, "n": 2,
        "stop": ["a"], "seed": 1, "logit_bias": {"1": 1}, "logprobs": True, "top_logprobs": 1,
        "stream": True, "stream_options": {"include_usage": True}, "tool_choice": "auto",
        "max_tokens": 5, "response_format": {"type": "text"}, "metadata": {"a": "b"},
        "chat_template_kwargs": {"a": 1},
    },
    "/v1/completions": {
        "model": MODEL, "prompt": ["a", "b"], "max_tokens": 3, "echo": True, "stop": "x",
    },
    "/v1/messages": {
        "model": MODEL, "max_tokens": 3, "system": [{"type": "text", "text": "x"}],
        "messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c", "content": "x"},
        ]}],
        "stop_sequences": ["x"], "thinking": {"type": "disabled"}, "stream": True,
    },
    "/v1/responses": {
        "model": MODEL, "instructions": "x", "max_output_tokens": 3, "stream": True,
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "reasoning", "id": "r", "summary": []},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ],
        "text": {"format": {"type": "text"}},
    },
    "/api/chat": {
        "model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": False,
        "options": {"seed": 1, "stop": ["x"], "num_ctx": 10, "num_predict": 2},
    },
    "/api/generate": {"model": MODEL, "prompt": "x", "system": "x", "options": {"top_k": 1}},
}  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a body that a mutation may change."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, ...]] = []
    for key, child in inner:
        found.append((*path, key))
        if isinstance(child, dict | list):
            found += places(child, (*path, key))
    return found


def mutate(body: dict[str, Any], chance: random.Random) -> bytes:
    """The body with one place replaced, removed or added to, or its bytes damaged."""
    copy = json.loads(json.dumps(body))
    place = chance.choice(places(copy))
    target = copy
    for key in place[:-1]:
        target = target[key]
    match chance.randrange(4):
        case 0 | 1:
            target[place[-1]] = chance.choice(JUNK)
        case 2:
            del target[place[-1]]
        case _:
            if isinstance(target, dict):
                target[chance.choice(["", "extra", "model", "stream"])] = chance.choice(JUNK)
    raw = bytearray(json.dumps(copy).encode())
    if chance.random() < 0.2:
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw)


@pytest.mark.parametrize("path", BODIES)
def test_mutated_bodies_are_answered_or_refused_but_never_a_500(
    gateway: GatewayThread, path: str
) -> None:
    chance = random.Random(path)
    with httpx.Client(base_url=gateway.url, timeout=5) as client:
        whole = client.post(path, json=BODIES[path])
        assert whole.status_code == 200, whole.text
        for _ in range(MUTATIONS):
            body = mutate(BODIES[path], chance)
            answer = client.post(path, content=body)
            assert answer.status_code in (200, 400, 404, 429), (body, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"], body
        assert client.post(path, json=BODIES[path]).status_code == 200
        metrics = client.get("/metrics").text
    assert "internal_error" not in metrics


def test_the_openapi_document_names_every_path_and_resolves(gateway: GatewayThread) -> None:
    document = httpx.get(f"{gateway.url}/openapi.json", verify=False).json()
    assert document["openapi"].startswith("3.1")
    assert set(BODIES) < set(document["paths"])
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert name in document["components"]["schemas"]
    chat = document["components"]["schemas"]["ChatRequest"]
    assert chat["additionalProperties"] is False
    assert chat["properties"]["temperature"]["anyOf"][0]["maximum"] == 2
