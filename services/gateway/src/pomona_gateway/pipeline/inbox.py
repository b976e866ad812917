"""Sequences in the engine: what is generated, and where its tokens arrive."""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from pomona.errors import RequestError
from pomona.messages.pipeline import QueuePlace, Started, Token
from pomona.messages.sampling import Sampling
from pomona_gateway.metrics import Timing
from pomona_gateway.pipeline.embedding import Embedding
from pomona_gateway.pipeline.prompt_results import PromptScores

Event: TypeAlias = Token | Started | QueuePlace | PromptScores | Embedding
"""What the pipeline tells of one sequence."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One sequence to generate.

    Attributes:
        share: kept prefixes are shared only within it.
        priority: 0 is the most urgent.
        queue_share: how much of the head's queue those of the same ``share`` may fill.
        measured: whether the metrics count it; the gateway's own probes are not.
    """

    model: str
    prompt: array[int]
    sampling: Sampling
    share: str = ""
    priority: int = 0
    queue_share: float = 1.0
    measured: bool = True


class Inbox:
    """What arrives for one client request, which may have several sequences."""

    def __init__(self) -> None:
        self.sequences = 0
        self._buffer: deque[tuple[int, Event]] = deque()
        self._error: RequestError | None = None
        self._news = asyncio.Event()

    async def receive(self, timeout_s: float) -> tuple[int, Event] | None:
        """Index of a sequence, and what is new of it; None when nothing came in time.
        Cancelling it loses nothing.

        Raises RequestError when a sequence failed, after what arrived before.
        """
        if not self._buffer and self._error is None:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
        if self._buffer:
            return self._buffer.popleft()
        if self._error is not None:
            raise self._error
        return None

    async def settle(self, timeout_s: float) -> None:
        """Wait for the first news. Raises RequestError when it is a failure."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        if self._error is not None and not self._buffer:
            raise self._error

    def put(self, index: int, event: Event) -> int:
        """How many events wait now."""
        self._buffer.append((index, event))
        self._news.set()
        return len(self._buffer)

    def fail(self, error: RequestError) -> None:
        """A sequence failed, and with it the client's request."""
        self._error = self._error or error
        self._news.set()


@dataclass(slots=True)
class Running:
    """One sequence in the engine. ``index`` is its place among those of its inbox."""

    request: str
    generation: Generation
    inbox: Inbox
    index: int
    timing: Timing
    received: int = 0
    cached: int = 0
