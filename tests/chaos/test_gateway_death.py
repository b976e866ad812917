"""SIGKILL of the gateway in mid-answer: no work is lost, and clients wait for the next one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Generator
from typing import Any

import httpx
import psutil
import pytest

from support.chaos.streams import Stream, ended, started
from support.clusters import MODEL, Cluster, serving
from support.waiting import wait_until

pytestmark = pytest.mark.slow

PATIENCE_S = 120.0
KEY = {"idempotency-key": "the sea"}
BODY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me ten facts about the sea."}],
    "temperature": 0,
    "max_tokens": 120,
    "stream": True,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with serving(tmp_path_factory.mktemp("death")) as running:
        yield running


def stream(cluster: Cluster, key: dict[str, str], stop_after: int = 10**9) -> list[str]:
    """Returns the data lines of a streamed chat, at most ``stop_after``."""
    lines: list[str] = []
    url = f"{cluster.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=BODY, headers=key, timeout=PATIENCE_S) as answer:
        for line in answer.raise_for_status().iter_lines():
            if line.startswith("data:"):
                lines.append(line)
            if len(lines) >= stop_after:
                break
    return lines


def text_of(lines: list[str]) -> str:
    chunks = [json.loads(line[5:]) for line in lines if line.startswith("data: {")]
    return "".join(x["choices"][0]["delta"].get("content", "") for x in chunks)


def test_answer_is_had_again_by_its_key_without_a_refused_connection(cluster: Cluster) -> None:
    undisturbed = text_of(stream(cluster, {}))
    pid = cluster.pids()["gateway"]
    seen = stream(cluster, KEY, 20)
    os.kill(pid, signal.SIGKILL)
    again = stream(cluster, KEY)
    assert text_of(again) == undisturbed
    assert again[:20] == seen


def test_ordinary_retry_finds_what_the_dead_gateway_had_computed(cluster: Cluster) -> None:
    words = " ".join(f"word{n}" for n in range(150))
    body = {
        **BODY,
        "messages": [{"role": "user", "content": words}],
        "max_tokens": 400,
        "ignore_eos": True,
    }
    url = f"{cluster.url}/v1/chat/completions"
    pid = cluster.pids()["gateway"]
    with httpx.stream("POST", url, json=body, timeout=PATIENCE_S) as answer:
        wait_for_text(answer)
        os.kill(pid, signal.SIGKILL)
    whole = {**body, "stream": False, "max_tokens": 1}
    usage = httpx.post(url, json=whole, timeout=PATIENCE_S).raise_for_status().json()["usage"]
    assert usage["prompt_tokens"] > 400
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0.9 * usage["prompt_tokens"]
    wait_until(lambda: cluster.status()["users"] == 0, "the end of the dead gateway's request")


def test_a_gateway_told_to_end_finishes_its_streams_beside_its_successor(
    cluster: Cluster,
) -> None:
    undisturbed = ended(started([Stream(cluster.url, 1, 200)]))
    pid = cluster.pids()["gateway"]
    running = started([Stream(cluster.url, 1, 200)], 8)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: answers(cluster), "an answer of the successor", PATIENCE_S)
    was_running = running[0].is_alive()
    assert cluster.pids()["gateway"] != pid
    assert ended(running) == undisturbed
    assert was_running
    wait_until(lambda: not psutil.pid_exists(pid), "the end of the first gateway", PATIENCE_S)


def answers(cluster: Cluster) -> bool:
    """Asks for an answer. A connection must never be refused, nor cut off."""
    url = f"{cluster.url}/v1/chat/completions"
    whole = {**BODY, "stream": False, "max_tokens": 1}
    answer = httpx.post(url, json=whole, timeout=PATIENCE_S)
    assert answer.is_success or answer.status_code == 503
    return answer.is_success


def wait_for_text(answer: httpx.Response) -> None:
    for line in answer.iter_lines():
        if line.startswith("data: {") and text_of([line]):
            return
    pytest.fail("no text")
