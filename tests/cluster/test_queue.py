"""Order and positions of waiting requests, in a cluster that runs one request at a time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import httpx
import pytest

from pomona.auth.api_keys import KeyStore
from support.clusters import MODEL, Cluster, serving
from support.waiting import wait_until

MAX_WAITING = 6
"""Capacity of the head's queue."""
LONG = "long"
"""Name of the client whose reply keeps the others waiting."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    """A cluster that runs one request while up to ``MAX_WAITING`` wait."""
    variables = {
        "POMONA_STAGE_WORKER_MAX_RUNNING": "1",
        "POMONA_STAGE_WORKER_MAX_WAITING": str(MAX_WAITING),
    }
    with serving(tmp_path_factory.mktemp("cluster"), variables=variables) as running:
        yield running


async def wait_for(condition: Callable[[], bool], description: str) -> None:
    await asyncio.to_thread(wait_until, condition, description, 60.0)


@dataclass
class Clients:
    """Clients of one cluster. Another client's long reply keeps them waiting.

    Attributes:
        ended: names of clients in the order in which their replies ended.
        refused: error codes, by name of client.
        comments: comment lines of each stream.
    """

    client: httpx.AsyncClient
    group: asyncio.TaskGroup
    ended: list[str] = field(default_factory=list[str])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    comments: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def send(self, name: str, stream: bool, key: str = "", max_tokens: int = 16):
        return self.group.create_task(self._send(name, stream, key, max_tokens))

    async def _send(self, name: str, stream: bool, key: str, max_tokens: int) -> None:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Tell me about {name}"}],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "stream": stream,
        }
        headers = {"authorization": f"Bearer {key}"} if key else {}
        url = "/v1/chat/completions"
        comments = self.comments.setdefault(name, [])
        lines: list[str] = []
        async with self.client.stream("POST", url, json=body, headers=headers) as answer:
            async for line in answer.aiter_lines():
                (comments if line.startswith(":") else lines).append(line)
        if answer.status_code == 200:
            self.ended.append(name)
            assert not stream or [line for line in lines if line][-1] == "data: [DONE]"
        else:
            found = re.search(r'"code":"(\w+)"', "".join(lines))
            self.refused[name] = found[1] if found else "".join(lines)

    async def wait(self, metric: str, number: int) -> None:
        """Waits until a gauge of the gateway has this value."""
        line = f'{metric}{{model_name="{MODEL}"}} {number}.0\n'
        url = f"{self.client.base_url}/metrics"
        await wait_for(lambda: line in httpx.get(url, trust_env=False).text, line)

    def positions(self, name: str) -> list[int]:
        """Returns the queue positions that a stream reported."""
        reports = (re.fullmatch(r": queued at (\d+)", line) for line in self.comments[name])
        return [int(place[1]) for place in reports if place]

    def last_positions(self) -> dict[str, int]:
        """Returns the last position of each client, without the one that keeps them waiting: it
        may have been queued itself for a moment."""
        places = {name: self.positions(name) for name in self.comments if name != LONG}
        return {name: known[-1] for name, known in places.items() if known}


@asynccontextmanager
async def waiting_clients(cluster: Cluster) -> AsyncGenerator[Clients]:
    """Keeps all clients waiting while the block runs; afterwards they get their replies."""
    async with (
        httpx.AsyncClient(base_url=cluster.url, timeout=120, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):
        clients = Clients(client, group)
        long = clients.send(LONG, stream=True, max_tokens=8000)
        await clients.wait("pomona_num_requests_running", 1)
        yield clients
        # Closes the connection, which cancels the request.
        long.cancel()


async def stream_beside_whole_requests(cluster: Cluster) -> Clients:
    async with waiting_clients(cluster) as clients:
        for number in range(MAX_WAITING):
            clients.send(f"title {number}", stream=False)
        await clients.wait("pomona_num_requests_waiting", MAX_WAITING)
        clients.send("chat", stream=True)
        await wait_for(
            lambda: "chat" in clients.last_positions() and bool(clients.refused), "a position"
        )
    return clients


def test_a_stream_enters_a_full_queue_of_whole_requests_and_starts_first(
    cluster: Cluster,
) -> None:
    clients = asyncio.run(stream_beside_whole_requests(cluster))
    assert clients.comments["chat"][0] == ": accepted"
    assert set(clients.positions("chat")) == {1}
    assert list(clients.refused.values()) == ["queue_full"]
    assert len(clients.ended) == MAX_WAITING
    assert "chat" in clients.ended[: MAX_WAITING // 2]


async def one_key_beside_another(cluster: Cluster, keys: dict[str, str]) -> Clients:
    async with waiting_clients(cluster) as clients:
        for number in range(MAX_WAITING - 1):
            clients.send(f"many {number}", stream=True, key=keys["many"])
            await clients.wait("pomona_num_requests_waiting", number + 1)
        clients.send("one", stream=True, key=keys["one"])
        expected = {"many 0": 1, "one": 2, "many 1": 3, "many 2": 4, "many 3": 5, "many 4": 6}
        await wait_for(lambda: clients.last_positions() == expected, f"positions as {expected}")
    return clients


def test_two_keys_take_turns_and_reported_positions_never_rise(
    cluster: Cluster,
) -> None:
    store = KeyStore(cluster.output_path.parent / "state")
    keys = {name: store.create(name) for name in ("many", "one")}
    clients = asyncio.run(one_key_beside_another(cluster, keys))
    assert not clients.refused
    assert "one" in clients.ended[: MAX_WAITING - 2]
    for name in clients.ended:
        places = clients.positions(name)
        begin = places.index(max(places))
        assert all(later <= earlier for earlier, later in pairwise(places[begin:])), name
