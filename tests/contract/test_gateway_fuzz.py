"""Damaged request bodies get a 200 or an error with a reason, and leak no memory."""

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
"""Number of damaged bodies. The README's figures are for POMONA_TEST_MUTATIONS=10000."""
CLIENTS = 8
BATCH = 200
GROWTH_BYTES = 16 << 20
"""Allowance for caches and fragmentation; a leak in every request exceeds it."""
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
CONSTRAINED = {
    "type": "json_schema",
    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
}
TOOLS = [{**TOOL, "function": {"name": "f", "parameters": SCHEMA, "strict": True}}]
USER = [{"role": "user", "content": "x"}]
CONSTRAINED_BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": USER, "response_format": CONSTRAINED}),
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
"""Bodies with constrained replies; a 400 is allowed where the model's template lacks support."""
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


def logprobs_of(token: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    return -0.5, tuple((65 + n, -0.5 - n) for n in range(20))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the path of every value in a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, ...]] = []
    for key, child in inner:
        found.append((*path, key))
        if isinstance(child, dict | list):
            found += places(child, (*path, key))
    return found


def mutate(body: dict[str, Any], rng: random.Random) -> bytes:
    """Returns the body with one or more values replaced, removed or added, or a byte changed."""
    copy = json.loads(json.dumps(body))
    for _ in range(rng.choice([1, 1, 2, 3])):
        _mutate_place(copy, rng)
    raw = bytearray(json.dumps(copy).encode())
    if rng.random() < 0.1:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


def _mutate_place(copy: dict[str, Any], rng: random.Random) -> None:
    found = places(copy)
    if not found:
        return
    place = rng.choice(found)
    target = copy
    for key in place[:-1]:
        target = target[key]
    match rng.randrange(4):
        case 0 | 1:
            target[place[-1]] = deepcopy(rng.choice(JUNK))
        case 2:
            del target[place[-1]]
        case _:
            if isinstance(target, dict):
                target[rng.choice(["", "extra", "model", "stream"])] = deepcopy(rng.choice(JUNK))


SEEDS = [*BODIES.items(), *((path, {"model": MODEL, **body}) for path, body in CONSTRAINED_BODIES)]


def test_mutated_bodies_are_answered_or_refused_without_a_leak(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    def script(_: Submitted) -> Script:
        # Only the gateway's memory may grow, not that of the scripted head.
        cluster.head.submitted.clear()
        cluster.head.cancelled.clear()
        return say("A", logprobs=logprobs_of)

    cluster.head.script = script
    rng = random.Random(6)
    process = psutil.Process()
    seeds = [rng.choice(SEEDS) for _ in range(MUTATIONS)]
    mutants = [(path, mutate(body, rng)) for path, body in seeds]
    statuses: Counter[int] = Counter()

    with httpx.Client(base_url=gateway.url, timeout=10) as client:

        def post(mutant: tuple[str, bytes]) -> None:
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
            # In batches: an executor keeps a kilobyte for each submitted call.
            resident: list[int] = []
            for first in range(0, MUTATIONS, BATCH):
                list(clients.map(post, mutants[first : first + BATCH]))
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


def test_openapi_document_has_every_path_and_its_references_resolve(gateway: GatewayThread) -> None:
    document = httpx.get(f"{gateway.url}/openapi.json", verify=False).json()
    assert document["openapi"].startswith("3.1")
    assert set(BODIES) < set(document["paths"])
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert name in document["components"]["schemas"]
    chat = document["components"]["schemas"]["ChatRequest"]
    assert chat["additionalProperties"] is True
    assert chat["properties"]["temperature"]["anyOf"][0]["maximum"] == 2
