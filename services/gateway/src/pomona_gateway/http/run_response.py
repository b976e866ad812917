"""The response of a run: replayed from its record, then followed live."""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from pomona.errors import RequestError
from pomona_gateway.http import sse
from pomona_gateway.http.errors import anthropic_error, dialect_of, internal_error, openai_error
from pomona_gateway.http.request_body import ClientDisconnected
from pomona_gateway.http.respond import (
    UnreadError,
    encode_json,
    end_unread,
    error_response,
    send_part,
    while_connected,
)
from pomona_gateway.runs.run import Run

log = logging.getLogger(__name__)

REPLAYED_HEADER = (b"idempotent-replayed", b"true")
"""Header of a response that an earlier request with the same key began."""


class RunResponse:
    """Sends the response of a run, as an ASGI application for one request.

    Args:
        start: number of the first part to send.
        keep_alive_s: seconds after which a comment keeps the connection open.
        stall_deadline_s: seconds a client may leave a part unread.
        headers: headers beside the recorded ones.
        on_end: called when this client is gone; with True when it has the whole response.
    """

    def __init__(
        self,
        run: Run,
        keep_alive_s: float,
        stall_deadline_s: float,
        start: int = 0,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        on_end: Callable[[bool], None] = lambda whole: None,
    ) -> None:
        self._run = run
        self._keep_alive_s = keep_alive_s
        self._stall_deadline_s = stall_deadline_s
        self._start = start
        self._headers = headers
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._run.readers += 1
        is_whole = False
        try:
            await while_connected(receive, self._send(scope, receive, send))
            is_whole = self._run.succeeded
        except (ClientDisconnected, UnreadError, OSError):
            log.info("a client left a run")
        finally:
            self._run.readers -= 1
            self._on_end(is_whole)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        run = self._run
        await run.wait_for_start()
        if not run.status:
            error = run.interruption or run.error or internal_error()
            await error_response(error, scope)(scope, receive, send)
            return
        headers = [*run.headers, *self._headers]
        await send({"type": "http.response.start", "status": run.status, "headers": headers})
        last = b""
        try:
            async for part in run.read(self._start, self._keep_alive_s):
                await send_part(send, part, self._stall_deadline_s)
        except RequestError as error:
            last = error_part(scope, error, len(run.parts))
        except UnreadError:
            error = end_unread(scope, self._stall_deadline_s)
            last = error_part(scope, error, len(run.parts))
        await send_part(send, last, self._stall_deadline_s, more=False)


def error_part(scope: Scope, error: RequestError, number: int) -> bytes:
    """Encodes an error as the end of a stream in the dialect of the request.

    Args:
        number: sequence number of the event, in the Responses API.
    """
    match dialect_of(scope):
        case "anthropic":
            return sse.event("error", anthropic_error(error))
        case "ollama":
            return encode_json({"error": error.message}) + b"\n"
        case "openai":
            pass
    if "/responses" not in scope["path"]:
        return sse.data(openai_error(error)) + sse.DONE
    fields = {"code": error.code, "message": error.message, "param": error.param}
    return sse.event("error", {"type": "error", **fields, "sequence_number": number})
