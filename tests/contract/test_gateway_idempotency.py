"""Requests with an ``Idempotency-Key``: executed once, answered each time."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from typing import Any

import httpx
import pytest

from pomona.messages.pipeline import Rejected
from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Script
from support.models.tiny_model import say
from support.waiting import wait_until

MODEL = "tiny"
REPLY = "hello again and again"
USER = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": USER, "max_tokens": 99},
    "/api/chat": {"messages": USER},
}


@pytest.fixture
def client(gateway: GatewayThread, fresh: None) -> Generator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client


def post(client: httpx.Client, path: str, key: str, **body: Any) -> httpx.Response:
    content = {"model": MODEL, **BODIES[path], **body}
    return client.post(path, json=content, headers={"idempotency-key": key})


def parts(answer: httpx.Response) -> list[str]:
    """Returns the lines of a reply without comments and pings, which depend on the time."""
    lines = answer.text.splitlines()
    return [x for x in lines if x and not x.startswith(":") and "ping" not in x]


def requests(cluster: ScriptedCluster) -> int:
    return len(cluster.head.requests())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_same_request_is_generated_once_and_answered_with_the_same_bytes(
    client: httpx.Client, cluster: ScriptedCluster, path: str, stream: bool
) -> None:
    key = f"key {path} {stream}"
    first = post(client, path, key, stream=stream)
    second = post(client, path, key, stream=stream)
    assert first.status_code == second.status_code == 200
    assert stream or "again" in first.text
    assert parts(first) == parts(second)
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert requests(cluster) == 1


@pytest.mark.parametrize("path", BODIES)
def test_same_key_with_another_body_is_422(
    client: httpx.Client, cluster: ScriptedCluster, path: str
) -> None:
    key = f"other-{path}"
    assert post(client, path, key, stream=False).status_code == 200
    other = post(client, path, key, stream=False, temperature=0.5)
    assert other.status_code == 422
    assert "idempotency-key" in other.text
    assert requests(cluster) == 1


def test_order_of_keys_in_the_body_does_not_matter(
    client: httpx.Client, cluster: ScriptedCluster
) -> None:
    headers = {"idempotency-key": "order", "content-type": "application/json"}
    body = {"model": MODEL, "messages": USER}
    turned = dict(reversed(body.items()))
    replies = [
        client.post("/v1/chat/completions", content=json.dumps(x, indent=n), headers=headers)
        for n, x in enumerate((body, turned))
    ]
    assert replies[0].json() == replies[1].json()
    assert requests(cluster) == 1


def test_second_client_gets_what_the_first_one_has_then_follows_live(
    client: httpx.Client, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY, step_s=0.03)
    path = "/v1/chat/completions"
    replies: list[str] = []

    def read() -> None:
        replies.append(post(client, path, "live", stream=True).text)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
        wait_until(lambda: requests(cluster), "a submit")
    for thread in threads:
        thread.join(30)
    events = [[x for x in reply.splitlines() if x.startswith("data:")] for reply in replies]
    assert events[0] == events[1] == events[2]
    assert events[0][-1] == "data: [DONE]"
    assert requests(cluster) == 1


def test_run_goes_on_when_its_client_leaves(client: httpx.Client, cluster: ScriptedCluster) -> None:
    cluster.head.script = lambda _: say(REPLY * 3, step_s=0.02)
    path, headers = "/v1/chat/completions", {"idempotency-key": "left"}
    body = {"model": MODEL, "stream": True, **BODIES[path]}
    with client.stream("POST", path, json=body, headers=headers) as answer:
        next(answer.iter_lines())
    text = post(client, path, "left", stream=True).text
    contents = [
        json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        for line in text.splitlines()
        if line.startswith("data: {")
    ]
    assert "".join(contents) == REPLY * 3
    assert requests(cluster) == 1
    assert not cluster.head.cancelled


def test_error_is_not_kept_so_that_a_retry_can_succeed(
    client: httpx.Client, cluster: ScriptedCluster
) -> None:
    busy = Rejected("", 0, 429, "queue_full", "the queue is full", 1)
    cluster.head.script = lambda _: Script(reject=busy)
    path = "/v1/chat/completions"
    refused = post(client, path, "retry")
    assert refused.status_code == 429
    assert refused.headers["retry-after"]
    broken = Rejected("", 0, 503, "gone", "the model went away")
    cluster.head.script = lambda _: Script(ids=say(REPLY).ids, silent_after=0, reject=broken)
    assert post(client, path, "retry", stream=True).status_code == 503
    cluster.head.script = lambda _: say(REPLY)
    assert post(client, path, "retry").json()["choices"][0]["message"]["content"] == REPLY


@pytest.mark.parametrize("key", ["", "x" * 257, "sn\u00f8".encode()])
def test_invalid_key_is_400(client: httpx.Client, key: str | bytes) -> None:
    headers: Any = {"idempotency-key": key}
    answer = client.post("/v1/chat/completions", json={"model": MODEL}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_idempotency_key")


def test_refused_body_is_answered_as_without_a_key(client: httpx.Client) -> None:
    headers = {"idempotency-key": "bad"}
    for content in (b"{", b"", b"[]"):
        answer = client.post("/v1/chat/completions", content=content, headers=headers)
        plain = client.post("/v1/chat/completions", content=content)
        assert (answer.status_code, answer.json()) == (plain.status_code, plain.json())
