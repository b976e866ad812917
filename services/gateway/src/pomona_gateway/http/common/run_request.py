"""What every dialect does with a completion: run it, and write it whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.auth.api_keys import ApiKey, KeyLimits
from pomona.errors import RequestError
from pomona.queue_policy import QueuePolicy
from pomona_gateway.gateway import Gateway
from pomona_gateway.generation.choices import GenerationStream
from pomona_gateway.generation.completion import Completion
from pomona_gateway.http.json_response import JsonResponse
from pomona_gateway.http.request_body import Body, parse_body, read_body
from pomona_gateway.http.respond import StreamAnswer, while_connected

SETTLE_S = 0.25
"""A stream begins at the latest after this, so that a refusal before it has its status."""

INTERACTIVE, BACKGROUND = 0, 1
"""Priorities at the head: somebody reads a stream as it comes; what frontends do beside it
(titles, tags, follow-ups) they ask for whole."""

BodyT = TypeVar("BodyT", bound=Body)


class Writer(Protocol):
    """Writes the replies to one completion in one dialect."""

    media_type: str

    async def whole(self, replies: GenerationStream, pause_s: float) -> dict[str, Any]:
        """One object with every reply."""
        ...

    def stream(self, replies: GenerationStream, pause_s: float) -> AsyncGenerator[bytes]:
        """The parts of a streamed answer; something at the latest every ``pause_s``."""
        ...

    def failure(self, error: RequestError) -> bytes:
        """An error inside a stream, and the stream's end."""
        ...


async def receive(request: Request, kind: type[BodyT]) -> BodyT:
    """The request's body, validated. Raises RequestError."""
    settings = gateway_of(request).settings
    raw = await read_body(request, settings.max_body_bytes, settings.body_deadline_s)
    body = parse_body(kind, raw)
    request.state.model = getattr(body, "model", "")
    return body


def gateway_of(request: Request) -> Gateway:
    return request.app.state.gateway


def share_of(request: Request) -> str:
    """Whose request it is: the name of its key, empty without one."""
    key: ApiKey | None = request.state.key
    return key.name if key else ""


async def answer(
    request: Request, completion: Completion, writer: Writer, stream: bool
) -> Response | ASGIApp:
    """Run the completion while its client is there. Raises RequestError when it is refused
    or, when not streamed, fails."""
    if not stream:
        return await answer_whole(request, completion, writer.whole)
    gateway = gateway_of(request)
    pause_s = gateway.settings.keep_alive_s
    visit = Visit(gateway, request.state.key)
    replies = visit.begin(completion, stream=True)
    try:
        await while_connected(request.receive, replies.wait_for_first(SETTLE_S))
    except BaseException:
        visit.end(replies)
        raise
    return StreamAnswer(
        _closing(writer, replies, visit, pause_s),
        writer.failure,
        writer.media_type,
        gateway.settings.stall_deadline_s,
        lambda: visit.end(replies),
    )


async def answer_whole(
    request: Request,
    completion: Completion,
    whole: Callable[[GenerationStream, float], Coroutine[Any, Any, dict[str, Any]]],
) -> Response:
    """As :func:`answer`, not streamed. ``whole`` makes one object of the replies."""
    gateway = gateway_of(request)
    visit = Visit(gateway, request.state.key)
    replies = visit.begin(completion, stream=False)
    try:
        work = whole(replies, gateway.settings.keep_alive_s)
        return JsonResponse(await while_connected(request.receive, work))
    finally:
        visit.end(replies)


class Visit:
    """One request of one key, for its limits and its counters."""

    def __init__(self, gateway: Gateway, key: ApiKey | None) -> None:
        self._gateway = gateway
        self._key = key
        self._name = key.name if key else ""
        self._limits = key.limits if key else KeyLimits()
        self._ended = False

    def begin(self, completion: Completion, stream: bool) -> GenerationStream:
        """Begin the work. Raises RequestError when the key's limits or the engine refuse."""
        gateway = self._gateway
        allowances = gateway.rate_limits
        placed = replace(
            completion,
            queue=QueuePolicy(
                tenant=self._name,
                priority=INTERACTIVE if stream else BACKGROUND,
                queue_share=(self._limits.queue_share or 100) / 100,
            ),
        )
        allowances.begin(self._name, self._limits, time.monotonic())
        try:
            return GenerationStream(gateway.pipelines, gateway.metrics, placed)
        except BaseException:
            allowances.end(self._name, 0, time.monotonic())
            raise

    def end(self, replies: GenerationStream) -> None:
        """Stop the work and count it, once."""
        if self._ended:
            return
        self._ended = True
        replies.close()
        usage = replies.usage
        now = time.monotonic()
        self._gateway.rate_limits.end(self._name, usage.prompt + usage.reply, now)
        self._gateway.metrics.key_used(self._name, usage.prompt, usage.reply)
        if self._key is not None:
            self._gateway.usage.add(self._key, usage.prompt, usage.reply, time.time())


async def _closing(
    writer: Writer, replies: GenerationStream, visit: Visit, pause_s: float
) -> AsyncGenerator[bytes]:
    chunks = writer.stream(replies, pause_s)
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        await chunks.aclose()
        visit.end(replies)
