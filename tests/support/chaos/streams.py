"""Greedy replies that are read as they come, for comparison with undisturbed ones."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence

import httpx

from support.clusters import MODEL
from support.waiting import wait_until

END_S = 180.0


class Stream(threading.Thread):
    """One greedy completion of a fixed length, read in a thread of its own.

    Attributes:
        chunks: the texts received.
        at: monotonic time of each chunk, seconds.
        error: what ended the stream early; empty otherwise.

    Args:
        url: base URL of the gateway.
        number: chooses the prompt.
        enter: called in the thread first, to enter another network.
        key: ``Idempotency-Key``; empty for none.
    """

    def __init__(
        self,
        url: str,
        number: int,
        tokens: int,
        enter: Callable[[], None] = lambda: None,
        key: str = "",
    ) -> None:
        super().__init__(name=f"stream {number}", daemon=True)
        self.number = number
        self.chunks: list[str] = []
        self.at: list[float] = []
        self.error = ""
        self._url = url
        self._enter = enter
        self._headers = {"idempotency-key": key} if key else {}
        self._body = {
            "model": MODEL,
            "prompt": f"Here are {number + 3} facts about the sea:",
            "temperature": 0,
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }

    @property
    def text(self) -> str:
        return "".join(self.chunks)

    def run(self) -> None:
        try:
            self._enter()
            with (
                httpx.Client(timeout=END_S, trust_env=False) as client,
                client.stream(
                    "POST", f"{self._url}/v1/completions", json=self._body, headers=self._headers
                ) as answer,
            ):
                for line in answer.raise_for_status().iter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line.removeprefix("data: "))
                        if "error" in event:
                            self.error = str(event["error"])
                            return
                        self.chunks.append(event["choices"][0]["text"])
                        self.at.append(time.monotonic())
        except (httpx.HTTPError, OSError) as error:
            self.error = repr(error)


def started(streams: Sequence[Stream], chunks: int = 0) -> Sequence[Stream]:
    """Starts streams, and waits until each has received a number of chunks."""
    for stream in streams:
        stream.start()
    wait_until(
        lambda: all(len(x.chunks) >= chunks or x.error for x in streams), "running streams", END_S
    )
    return streams


def ended(streams: Sequence[Stream]) -> list[str]:
    """Waits for the end of streams. Returns their texts, and fails if one has an error."""
    for stream in streams:
        stream.join(END_S)
    assert not [stream.name for stream in streams if stream.is_alive()]
    assert not [(stream.name, stream.error) for stream in streams if stream.error]
    return [stream.text for stream in streams]


def wait_for_more(streams: Sequence[Stream], deadline_s: float) -> None:
    """Waits until each stream has received new text, beyond the text already on its way."""
    seen = [len(stream.chunks) for stream in streams]
    wait_until(
        lambda: all(len(x.chunks) > n + 2 for x, n in zip(streams, seen, strict=True)),
        "more text",
        deadline_s,
    )
