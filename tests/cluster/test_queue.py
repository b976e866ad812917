"""Who goes first when more is asked than runs: a real cluster that runs one request at a time."""

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

WAIT = 6
"""Requests that the head lets wait."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    """A cluster that runs one request while ``WAIT`` wait."""
    variables = {
        "POMONA_STAGE_WORKER_MAX_RUNNING": "1",
        "POMONA_STAGE_WORKER_MAX_WAITING": str(WAIT),
    }
    with serving(tmp_path_factory.mktemp("cluster"), variables=variables) as running:
        yield running


async def soon(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what, 60.0)


@dataclass
class Crowd:
    """Clients of one cluster, and one more whose long reply keeps the others waiting.

    Attributes:
        ended: their names in the order in which they had their whole answer.
        refused: the codes of the errors of those that got one.
        comments: what each stream was told beside its events.
    """

    client: httpx.AsyncClient
    group: asyncio.TaskGroup
    ended: list[str] = field(default_factory=list[str])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    comments: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def ask(self, name: str, stream: bool, key: str = "", max_tokens: int = 16):
        return self.group.create_task(self._ask(name, stream, key, max_tokens))

    async def _ask(self, name: str, stream: bool, key: str, max_tokens: int) -> None:
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
        said: list[str] = []
        async with self.client.stream("POST", url, json=body, headers=headers) as answer:
            async for line in answer.aiter_lines():
                (comments if line.startswith(":") else said).append(line)
        if answer.status_code == 200:
            self.ended.append(name)
            assert not stream or [line for line in said if line][-1] == "data: [DONE]"
        else:
            found = re.search(r'"code":"(\w+)"', "".join(said))
            self.refused[name] = found[1] if found else "".join(said)

    async def wait(self, metric: str, number: int) -> None:
        """Until a gauge of the gateway has this value."""
        line = f'{metric}{{model_name="{MODEL}"}} {number}.0\n'
        url = f"{self.client.base_url}/metrics"
        await soon(lambda: line in httpx.get(url, trust_env=False).text, line)

    def places(self, name: str) -> list[int]:
        """The places in the queue that a stream was told."""
        told = (re.fullmatch(r": queued at (\d+)", line) for line in self.comments[name])
        return [int(place[1]) for place in told if place]

    def last_places(self) -> dict[str, int]:
        told = {name: self.places(name) for name in self.comments}
        return {name: places[-1] for name, places in told.items() if places}


@asynccontextmanager
async def crowd_at(cluster: Cluster) -> AsyncGenerator[Crowd]:
    """While the block runs all of the crowd wait; after it they are answered."""
    async with (
        httpx.AsyncClient(base_url=cluster.url, timeout=120, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):
        crowd = Crowd(client, group)
        long = crowd.ask("long", stream=True, max_tokens=8000)
        await crowd.wait("pomona_num_requests_running", 1)
        yield crowd
        # It leaves as a client does that closes its connection.
        long.cancel()


async def chat_among_titles(cluster: Cluster) -> Crowd:
    async with crowd_at(cluster) as crowd:
        for number in range(WAIT):
            crowd.ask(f"title {number}", stream=False)
        await crowd.wait("pomona_num_requests_waiting", WAIT)
        crowd.ask("chat", stream=True)
        await soon(lambda: "chat" in crowd.last_places() and bool(crowd.refused), "a place")
    return crowd


def test_a_stream_gets_in_and_goes_first_though_whole_answers_fill_the_queue(
    cluster: Cluster,
) -> None:
    crowd = asyncio.run(chat_among_titles(cluster))
    assert crowd.comments["chat"][0] == ": accepted"
    assert set(crowd.places("chat")) == {1}
    assert list(crowd.refused.values()) == ["queue_full"]
    assert len(crowd.ended) == WAIT
    assert "chat" in crowd.ended[: WAIT // 2]


async def one_beside_many(cluster: Cluster, keys: dict[str, str]) -> Crowd:
    async with crowd_at(cluster) as crowd:
        for number in range(WAIT - 1):
            crowd.ask(f"many {number}", stream=True, key=keys["many"])
            await crowd.wait("pomona_num_requests_waiting", number + 1)
        crowd.ask("one", stream=True, key=keys["one"])
        expected = {"many 0": 1, "one": 2, "many 1": 3, "many 2": 4, "many 3": 5, "many 4": 6}
        await soon(lambda: crowd.last_places() == expected, f"places as {expected}")
    return crowd


def test_a_key_with_many_requests_takes_turns_with_another_and_places_fall(
    cluster: Cluster,
) -> None:
    store = KeyStore(cluster.output_path.parent / "state")
    keys = {name: store.create(name) for name in ("many", "one")}
    crowd = asyncio.run(one_beside_many(cluster, keys))
    assert not crowd.refused
    assert "one" in crowd.ended[: WAIT - 2]
    for name in crowd.ended:
        places = crowd.places(name)
        begin = places.index(max(places))
        assert all(later <= earlier for earlier, later in pairwise(places[begin:])), name
