"""Progress comments of waiting streams, and changes of the head's address."""

from __future__ import annotations

import re
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
    found = [line for line in lines if line != "accepted"]
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
                    wait_until(lambda: second.connections == 1, "the new way")
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
