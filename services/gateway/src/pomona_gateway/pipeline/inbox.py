"""The inbox of one client request: events between the pipeline client and the HTTP handler."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TypeAlias

from pomona.errors import RequestError
from pomona.messages.pipeline import QueuePlace, Started, Token
from pomona_gateway.pipeline.prompt_results import Embedding, PromptLogprobs

Event: TypeAlias = Token | Started | QueuePlace | PromptLogprobs | Embedding
"""An event of one sequence."""


class Inbox:
    """Buffers the events of one client request, which may have several sequences.

    The pipeline client puts events without waiting, and cancels the sequence of a client that
    reads too slowly; so the buffer is bounded.

    Attributes:
        sequences: number of sequences submitted with this inbox.
    """

    def __init__(self) -> None:
        self.sequences = 0
        self._buffer: deque[tuple[int, Event]] = deque()
        self._error: RequestError | None = None
        self._arrived = asyncio.Event()

    async def receive(self, timeout_s: float) -> tuple[int, Event] | None:
        """Waits for the next event. Cancelling the wait loses no event.

        Returns:
            Index of the sequence and the event; None after ``timeout_s`` seconds without one.

        Raises:
            RequestError: a sequence failed and no earlier event is left.
        """
        if not self._buffer and self._error is None:
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
        if self._buffer:
            return self._buffer.popleft()
        if self._error is not None:
            raise self._error
        return None

    async def wait_for_first(self, timeout_s: float) -> None:
        """Waits up to ``timeout_s`` seconds for the first event, without taking it.

        Raises:
            RequestError: a sequence failed before any event.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        if self._error is not None and not self._buffer:
            raise self._error

    def put(self, index: int, event: Event) -> int:
        """Adds an event of a sequence. Returns the number of buffered events."""
        self._buffer.append((index, event))
        self._arrived.set()
        return len(self._buffer)

    def fail(self, error: RequestError) -> None:
        """Fails the client request; the first error counts."""
        self._error = self._error or error
        self._arrived.set()
