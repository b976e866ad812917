"""SIGSTOP of a stage worker in mid-answer: it is ended, comes back, and no answer is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Generator

import httpx
import pytest

from support.clusters import MODEL, Cluster, serving
from support.waiting import wait_until

STREAMS = 4
TOKENS = 160
BEFORE = 8
"""Chunks that each stream has received when the worker is stopped."""
NEXT_S = 40.0
"""Deadline for the first text after the stop. A loaded machine takes longer than the 12 s of an
idle one."""
END_S = 120.0


class Stream(threading.Thread):
    """One greedy reply, read as it comes."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        super().__init__(name=f"stream {number}", daemon=True)
        self.chunks: list[str] = []
        self.error = ""
        self._cluster = cluster
        self._body = {
            "model": MODEL,
            "prompt": f"Here are {number + 3} facts about the sea:",
            "temperature": 0,
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "stream": True,
        }

    @property
    def text(self) -> str:
        return "".join(self.chunks)

    def run(self) -> None:
        try:
            with (
                httpx.Client(timeout=END_S, trust_env=False) as client,
                client.stream(
                    "POST", f"{self._cluster.url}/v1/completions", json=self._body
                ) as answer,
            ):
                for line in answer.raise_for_status().iter_lines():
                    if line.startswith("data: {"):
                        choice = json.loads(line.removeprefix("data: "))["choices"][0]
                        self.chunks.append(choice["text"])
        except httpx.HTTPError as error:
            self.error = repr(error)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with serving(tmp_path_factory.mktemp("stop")) as running:
        yield running


def started(cluster: Cluster) -> list[Stream]:
    streams = [Stream(cluster, number) for number in range(STREAMS)]
    for stream in streams:
        stream.start()
    return streams


def ended(streams: list[Stream]) -> list[str]:
    for stream in streams:
        stream.join(END_S)
    assert not [stream.name for stream in streams if stream.is_alive()]
    assert not [stream.error for stream in streams if stream.error]
    return [stream.text for stream in streams]


@pytest.mark.parametrize("name", ["stage_worker.1", "stage_worker.0"])
def test_a_stopped_stage_worker_costs_no_answer(cluster: Cluster, name: str) -> None:
    undisturbed = ended(started(cluster))
    pid = cluster.pids()[name]
    streams = started(cluster)
    wait_until(
        lambda: all(len(stream.chunks) >= BEFORE for stream in streams), "running streams", END_S
    )
    os.kill(pid, signal.SIGSTOP)
    seen = [len(stream.chunks) for stream in streams]
    wait_until(
        lambda: all(
            len(stream.chunks) > before + 2 for stream, before in zip(streams, seen, strict=True)
        ),
        "more text after the stop",
        NEXT_S,
    )
    assert ended(streams) == undisturbed
    assert f"process {pid} sends no beacons and is ended" in cluster.output
