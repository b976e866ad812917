"""Progress comments of waiting streams, and changes of the head's address."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest

from support.doubles.gateway_thread import GatewayThread, running_gateway
from support.doubles.relay import relay
from support.doubles.scripted_cluster import ScriptedCluster
from support.models.tiny_model import say
from support.waiting import wait_until

MODEL = "tiny"
REPLY = "hello"
USER = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": USER, "max_tokens": 9},
}


def comments(gateway: GatewayThread, path: str) -> list[str]:
    """Returns the comments of a streamed response without consecutive repetitions."""
    body = {"model": MODEL, "stream": True, **BODIES[path]}
    text = httpx.post(f"{gateway.url}{path}", json=body).text
    assert "hello" in re.sub(r'"[^"]*hello', "hello", text)
    lines = [line[2:] for line in text.splitlines() if line.startswith(": ")]
    found = [line for line in lines if line not in ("accepted", "working")]
    return [x for n, x in enumerate(found) if n == 0 or found[n - 1] != x]


@pytest.mark.parametrize("path", BODIES)
def test_stream_reports_queue_position_then_prefill_progress(
    cluster: ScriptedCluster, path: str
) -> None:
    cluster.head.script = lambda _: say(REPLY, places=(3, 1), prefilled=(7,), step_s=0.3)
    with running_gateway(cluster, keep_alive_s=0.03) as gateway:
        found = comments(gateway, path)
    progress = [re.sub(r"/\d+", "/n", x) for x in found]
    assert [x for x in progress if x != "prompt 0/n"] == [
        "queued at 3",
        "queued at 1",
        "prompt 7/n",
    ]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/api/chat"])
def test_connection_is_kept_alive_by_the_clock_while_tokens_give_no_text(
    cluster: ScriptedCluster, path: str
) -> None:
    """Hidden reasoning, and tool calls that are sent complete, are many tokens without a part."""
    call = '<tool_call>{"name": "f", "arguments": {"input": "' + "x" * 30 + '"}}</tool_call>'
    cluster.head.script = lambda _: say(f"<think>{'m' * 30}</think>hello{call}", step_s=0.03)
    tool: dict[str, Any] = {"name": "f", "parameters": {"type": "object"}}
    if path == "/v1/messages":
        tool = {"name": "f", "input_schema": {"type": "object"}}
    elif path == "/v1/responses":
        tool = {"type": "custom", "name": "f"}
    else:
        tool = {"type": "function", "function": tool}
    body = {"model": MODEL, "stream": True, "messages": USER, "max_tokens": 999, "tools": [tool]}
    if path == "/v1/responses":
        body = {"model": MODEL, "stream": True, "input": "hi", "tools": [tool]}
    with running_gateway(cluster, keep_alive_s=0.2) as gateway:
        pauses: list[float] = []
        url = f"{gateway.url}{path}"
        with httpx.stream("POST", url, json=body, timeout=30) as answer:
            last = time.monotonic()
            for _ in answer.iter_raw():
                pauses.append(time.monotonic() - last)
                last = time.monotonic()
    silent_s = 30 * 0.03
    assert max(pauses) < silent_s
    assert len(pauses) > 4


def test_progress_is_reported_at_most_once_a_second(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    many = tuple(range(40, 0, -1))
    cluster.head.script = lambda _: say(REPLY, places=many, prefilled=many, step_s=0.005)
    assert comments(gateway, "/v1/chat/completions") == ["queued at 40"]


def test_gateway_follows_the_heads_address_in_the_plan(
    cluster: ScriptedCluster,
) -> None:
    cluster.head.script = lambda _: say(REPLY * 4, step_s=0.02)
    with relay(cluster.head.endpoint) as first, relay(cluster.head.endpoint) as second:
        cluster.address = first.endpoint
        try:
            with running_gateway(cluster) as gateway:
                assert first.connections == 1
                cluster.head.submitted.clear()
                body = {"model": MODEL, "stream": True, "messages": USER}
                url = f"{gateway.url}/v1/chat/completions"
                with httpx.stream("POST", url, json=body) as answer:
                    parts = answer.iter_text()
                    first = next(parts)
                    cluster.address = second.endpoint
                    cluster.change()
                    wait_until(lambda: httpx.post(url, json={**body, "n": 2}).is_success, "others")
                    wait_until(lambda: second.connections, "the new way")
                    text = first + "".join(parts)
                contents = re.findall(r'"content":"([^"]*)"', text)
                assert "".join(contents) == REPLY * 4
                assert {x.submit.attempt for x in cluster.head.requests()} == {0}
        finally:
            cluster.address = ""
            cluster.change()


def test_cancel_uses_the_heads_current_address(cluster: ScriptedCluster) -> None:
    slow = replace(say(REPLY * 20), step_s=0.05)
    cluster.head.script = lambda _: slow
    with relay(cluster.head.endpoint) as first, relay(cluster.head.endpoint) as second:
        cluster.address = first.endpoint
        try:
            with running_gateway(cluster) as gateway:
                wait_until(lambda: first.connections, "a message by the first way")
                body = {"model": MODEL, "stream": True, "messages": USER}
                url = f"{gateway.url}/v1/chat/completions"
                cluster.head.cancelled.clear()
                with httpx.stream("POST", url, json=body) as answer:
                    parts = answer.iter_text()
                    next(parts)
                    cluster.address = second.endpoint
                    cluster.change()
                    wait_until(lambda: first.closed, "the end of the old way")
                wait_until(lambda: cluster.head.cancelled, "a cancel")
                assert second.connections == 1
        finally:
            cluster.address = ""
            cluster.change()
