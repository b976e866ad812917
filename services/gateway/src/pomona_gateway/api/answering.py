"""What every dialect does with a completion: run it, and write it whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.api.body import Body, parse_body, read_body
from pomona_gateway.api.json_response import JsonResponse
from pomona_gateway.api.respond import StreamAnswer, while_connected
from pomona_gateway.completion import Completion, Replies
from pomona_gateway.gateway import Gateway

SETTLE_S = 0.25
"""A stream begins at the latest after this, so that a refusal before it has its status."""

BodyT = TypeVar("BodyT", bound=Body)


class Writer(Protocol):
    """Writes the replies to one completion in one dialect."""

    media_type: str

    async def whole(self, replies: Replies, pause_s: float) -> dict[str, Any]:
        """One object with every reply."""
        ...

    def stream(self, replies: Replies, pause_s: float) -> AsyncGenerator[bytes]:
        """The parts of a streamed answer; something at the latest every ``pause_s``."""
        ...

    def failure(self, error: RequestError) -> bytes:
        """An error inside a stream, and the stream's end."""
        ...


async def receive(request: Request, kind: type[BodyT]) -> BodyT:
    """The request's body, validated. Raises RequestError."""
    settings = gateway_of(request).settings
    raw = await read_body(request, settings.max_body_bytes, settings.body_deadline_s)
    return parse_body(kind, raw)


def gateway_of(request: Request) -> Gateway:
    return request.app.state.gateway


async def answer(
    request: Request, completion: Completion, writer: Writer, stream: bool
) -> Response | ASGIApp:
    """Run the completion while its client is there. Raises RequestError when it is refused
    or, when not streamed, fails."""
    gateway = gateway_of(request)
    pause_s = gateway.settings.keep_alive_s
    replies = Replies(gateway.engine, gateway.metrics, completion)
    try:
        if not stream:
            whole = writer.whole(replies, pause_s)
            body = await while_connected(request.receive, whole)
            replies.close()
            return JsonResponse(body)
        await while_connected(request.receive, replies.settle(SETTLE_S))
    except BaseException:
        replies.close()
        raise
    return StreamAnswer(
        _closing(writer, replies, pause_s),
        writer.failure,
        writer.media_type,
        gateway.settings.stall_deadline_s,
    )


async def _closing(writer: Writer, replies: Replies, pause_s: float) -> AsyncGenerator[bytes]:
    chunks = writer.stream(replies, pause_s)
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        await chunks.aclose()
        replies.close()
