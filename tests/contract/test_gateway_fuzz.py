"""Whatever comes in, the answer is an error that says why, or the thing asked for."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import httpx
import psutil

from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Script, Submitted
from support.models.tiny_model import say
from support.waiting import wait_until

MODEL = "tiny"
MUTATIONS = int(os.environ.get("POMONA_TEST_MUTATIONS", "1200"))
"""Of all seeds together. POMONA_TEST_MUTATIONS=10000 is the number the gateway is judged by."""
CLIENTS = 8
BATCH = 200
GROWTH_BYTES = 16 << 20
"""Caches fill and memory fragments; what leaks with every request outgrows this."""
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
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9, "pattern": "^[a-z]+$"},
        "kind": {"enum": ["a", 1, None]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
        "size": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "string", "format": "date"}},
}
HELD = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
TOOLS = [{**TOOL, "function": {"name": "f", "parameters": SCHEMA, "strict": True}}]
USER = [{"role": "user", "content": "x"}]
SHAPED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": USER, "response_format": HELD}),
    ("/v1/chat/completions", {"messages": USER, "tools": TOOLS, "tool_choice": "required"}),
    ("/v1/completions", {"prompt": "x", "structured_outputs": {"regex": "[a-c]{1,3}(x|y)?"}}),
    ("/v1/completions", {"prompt": [1, 2], "structured_outputs": {"choice": ["a", "b"]}}),
    ("/v1/completions", {"prompt": "x", "structured_outputs": {"json": SCHEMA}}),
    ("/v1/completions", {"prompt": "x", "echo": True, "logprobs": 2, "max_tokens": 0}),
    ("/v1/responses", {"input": "x", "text": {"format": {
        "type": "json_schema", "name": "x", "schema": SCHEMA}}}),
    ("/v1/messages", {"messages": USER, "max_tokens": 3, "output_config": {"format": {
        "type": "json_schema", "schema": SCHEMA}}}),
    ("/v1/messages/count_tokens", {"messages": USER, "tools": [
        {"name": "f", "input_schema": SCHEMA}]}),
    ("/api/chat", {"messages": USER, "format": SCHEMA}),
    ("/api/generate", {"prompt": "x", "format": "json", "stream": True}),
]  # fmt: skip
"""What holds replies to a shape; it may be refused for what the model's template lacks."""
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


def chances(token: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    return -0.5, tuple((65 + n, -0.5 - n) for n in range(20))


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
    """The body with a place or some replaced, removed or added to, or its bytes damaged."""
    copy = json.loads(json.dumps(body))
    for _ in range(chance.choice([1, 1, 2, 3])):
        _mutate_place(copy, chance)
    raw = bytearray(json.dumps(copy).encode())
    if chance.random() < 0.1:
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw)


def _mutate_place(copy: dict[str, Any], chance: random.Random) -> None:
    found = places(copy)
    if not found:
        return
    place = chance.choice(found)
    target = copy
    for key in place[:-1]:
        target = target[key]
    match chance.randrange(4):
        case 0 | 1:
            target[place[-1]] = deepcopy(chance.choice(JUNK))
        case 2:
            del target[place[-1]]
        case _:
            if isinstance(target, dict):
                target[chance.choice(["", "extra", "model", "stream"])] = deepcopy(
                    chance.choice(JUNK)
                )


SEEDS = [*BODIES.items(), *((path, {"model": MODEL, **body}) for path, body in SHAPED)]


def test_mutated_bodies_are_answered_or_refused_and_leave_nothing_behind(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    def script(_: Submitted) -> Script:
        # What grows is to be the gateway's memory, not the double's.
        cluster.head.submitted.clear()
        cluster.head.cancelled.clear()
        return say("A", chances=chances)

    cluster.head.script = script
    chance = random.Random(6)
    process = psutil.Process()
    asked = [chance.choice(SEEDS) for _ in range(MUTATIONS)]
    mutants = [(path, mutate(body, chance)) for path, body in asked]
    statuses: Counter[int] = Counter()

    with httpx.Client(base_url=gateway.url, timeout=10) as client:

        def ask(mutant: tuple[str, bytes]) -> None:
            path, body = mutant
            answer = client.post(path, content=body)
            assert answer.status_code in (200, 400, 404, 429), (path, body, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"], (path, body)
            statuses[answer.status_code] += 1

        def all_seeds_are_answered() -> None:
            for path, body in SEEDS:
                answer = client.post(path, json=body)
                expected = (200,) if body in BODIES.values() else (200, 400)
                assert answer.status_code in expected, (path, answer.text)

        with ThreadPoolExecutor(CLIENTS) as clients:
            all_seeds_are_answered()
            # A few at a time: an executor keeps a kilobyte for each that it is given.
            resident: list[int] = []
            for first in range(0, MUTATIONS, BATCH):
                list(clients.map(ask, mutants[first : first + BATCH]))
                resident.append(process.memory_info().rss)
        all_seeds_are_answered()
        growth = resident[-1] - resident[len(resident) // 3]
        print(f"{MUTATIONS} bodies, {dict(statuses)}: memory grew by {growth / 2**20:.1f} MiB")
        assert growth < GROWTH_BYTES
        assert statuses[200] > MUTATIONS // 10
        assert statuses[400] > MUTATIONS // 10
        for state in ("running", "waiting"):
            none = f'pomona_num_requests_{state}{{model_name="{MODEL}"}} 0.0'
            wait_until(lambda none=none: none in client.get("/metrics").text, f"no request {state}")
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
