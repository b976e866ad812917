"""A run: one request whose reply outlives its client's connection.

The request is executed once, by a task of its own. Everything that the API writes is recorded, so
that any number of readers can replay the reply from the beginning, or from a later part, and then
follow it live. The tokens are recorded too: a gateway that finds a run on disk executes the
request again, takes the recorded tokens first, and has the pipeline go on after them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from pomona.errors import RequestError
from pomona.messages.pipeline import Token
from pomona_gateway.pipeline.instructions import SequenceRequest

RunKind = Literal["request", "response"]
"""``request``: a request with an ``Idempotency-Key``. ``response``: a stored response of the
Responses API, whose parts are its events."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The HTTP request that a run answers.

    Attributes:
        headers: names in lower case, without those of the connection and of the key.
    """

    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class RunOrigin:
    """Facts of a run that are known from its beginning.

    Attributes:
        id: id of the run; of a response, its id in the API.
        tenant: id of the API key that may read the run.
        key: the client's ``Idempotency-Key``; empty without one.
        fingerprint: digest of the request, to tell another request with the same key.
        background: the run goes on without readers, and can be cancelled.
        created: Unix time in seconds.
        secret: source of the run's ids, hexadecimal.
        on_disk: the run may be written to disk.
    """

    kind: RunKind
    id: str
    tenant: str
    key: str
    fingerprint: str
    background: bool
    created: float
    secret: str
    on_disk: bool
    request: RunRequest


@dataclass(slots=True)
class RecordedSequences:
    """Sequences of a run, as a former gateway recorded them.

    Attributes:
        sequences: by the number of the choice.
        tokens: number of the choice and token, in the order of arrival.
        cached: prompt tokens found in the prefix cache, by choice.
    """

    sequences: dict[int, SequenceRequest] = field(default_factory=dict[int, SequenceRequest])
    tokens: list[tuple[int, Token]] = field(default_factory=list[tuple[int, Token]])
    cached: dict[int, int] = field(default_factory=dict[int, int])


class RunRecorder:
    """Takes what a run records for its next gateway. This one takes nothing."""

    def sequence(self, run: Run, index: int, sequence: SequenceRequest) -> None:
        """Records a sequence that is submitted."""

    def token(self, run: Run, index: int, token: Token) -> None:
        """Records a token of a reply."""

    def cached(self, run: Run, index: int, tokens: int) -> None:
        """Records the number of prompt tokens found in the prefix cache."""


class Run:
    """One execution of a request, and the record of its response.

    Attributes:
        recorded: tokens of a former gateway; None when they have been taken, or without any.
        snapshot: the response object so far, of a response.
        items: the input items of a response.
        status: HTTP status; 0 before the response begins.
        parts: the encoded parts of the body. Comments, which keep connections open, are no part.
        error: why the reply is not complete. If the response had begun, its last part says it.
        interruption: why readers must leave a run that another gateway goes on with.
        ended_at: monotonic time of the end; None while the run goes on.
        readers: number of clients that read the run.
        taken: a client has received the whole response.
        resumed: a former gateway began the run, so its client may not be back yet.
    """

    def __init__(
        self,
        origin: RunOrigin,
        recorder: RunRecorder | None = None,
        recorded: RecordedSequences | None = None,
    ) -> None:
        self.origin = origin
        self.recorded = recorded
        self.recorder = recorder or RunRecorder()
        self.snapshot: dict[str, Any] = {}
        self.items: tuple[dict[str, Any], ...] = ()
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.size = 0
        self.error: RequestError | None = None
        self.interruption: RequestError | None = None
        self.ended_at: float | None = None
        self.readers = 0
        self.taken = False
        self.resumed = False
        self.task: asyncio.Task[None] | None = None
        self._counter = 0
        self._comment = (0, b": waiting\n\n")
        self._changed = asyncio.Event()

    @property
    def id(self) -> str:
        return self.origin.id

    @property
    def created(self) -> float:
        return self.origin.created

    @property
    def ended(self) -> bool:
        return self.ended_at is not None

    @property
    def succeeded(self) -> bool:
        """True when the run has ended with a whole response."""
        return self.ended and self.error is None and 0 < self.status < 400

    def next_bytes(self, size: int) -> bytes:
        """Returns bytes that look random, and are the same in each execution."""
        self._counter += 1
        seed = f"{self.origin.secret}/{self._counter}".encode()
        return hashlib.blake2b(seed, digest_size=size).digest()

    def begin(self) -> None:
        """Resets the ids, for an execution from the beginning."""
        self._counter = 0

    # Recording -------------------------------------------------------------------------

    def record_start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Records status and headers."""
        self.status, self.headers = status, headers
        self.notify()

    def record_part(self, part: bytes) -> None:
        """Records a part of the body. A comment is only passed to those who read now."""
        if part.startswith(b":") or part.isspace():
            self._comment = (self._comment[0] + 1, part)
        elif part:
            self.parts.append(part)
            self.size += len(part)
        self.notify()

    def end(self, error: RequestError | None = None) -> None:
        """Ends the record."""
        if self.ended_at is None:
            self.error = self.error or error
            self.ended_at = time.monotonic()
        self.notify()

    def interrupt(self, error: RequestError) -> None:
        """Ends the record here, because another gateway goes on with it."""
        self.interruption = error
        self.end(error)

    def notify(self) -> None:
        """Wakes every reader."""
        self._changed.set()
        self._changed = asyncio.Event()

    # Reading ---------------------------------------------------------------------------

    async def wait_for_start(self) -> None:
        """Waits until status and headers are known, or the run has ended."""
        while not self.status and not self.ended:
            await self._changed.wait()

    async def wait_for_end(self) -> None:
        """Waits until the run has ended."""
        while not self.ended:
            await self._changed.wait()

    async def read(self, start: int, pause_s: float) -> AsyncGenerator[bytes]:
        """Yields the parts from number ``start`` on as they come.

        Each new comment is passed on, and the last one again after ``pause_s`` seconds without
        anything. Raises RequestError when the run was interrupted, or failed without a part.
        """
        number, comment = start, self._comment
        while True:
            changed = self._changed
            while number < len(self.parts):
                yield self.parts[number]
                number += 1
            if self._comment != comment:
                comment = self._comment
                yield comment[1]
            elif self.ended and number >= len(self.parts):
                break
            elif changed is self._changed:
                try:
                    async with asyncio.timeout(pause_s):
                        await changed.wait()
                except TimeoutError:
                    yield comment[1]
        failure = self.interruption or (None if self.parts else self.error)
        if failure is not None:
            raise failure

    async def stop(self) -> None:
        """Cancels the execution and waits for its end."""
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(self.task, return_exceptions=True)
