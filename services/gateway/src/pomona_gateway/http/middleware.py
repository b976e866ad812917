"""Pure ASGI middleware: request ids, unexpected errors, header limit, unread bodies."""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import secrets
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pomona.errors import RequestError
from pomona_gateway.http.errors import internal_error
from pomona_gateway.http.respond import error_response

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")

UNREAD_BODY_DEADLINE_S = 2.0


class RequestIds:
    """Adds ``x-request-id`` to every response: the client's own id if it is valid, or a new one.

    Anthropic's clients read the same id from ``request-id``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _REQUEST_ID.match(sent) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = headers["request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class UnexpectedErrors:
    """Logs an exception that no handler caught, and answers 500 if no response has begun."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        responded = False

        async def watched_send(message: Message) -> None:
            nonlocal responded
            responded = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as error:
            request_id = scope.get("state", {}).get("request_id", "")
            log.exception("a request failed", extra={"request": request_id})
            if not responded:
                await error_response(_answer(error), scope)(scope, receive, send)


def _answer(error: Exception) -> RequestError:
    """Returns the error for the client: 503 when the process is out of descriptors, else 500."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        message = "the gateway has too many open files; try again in a moment"
        return RequestError(503, "too_many_files", message, retry_after_s=1)
    return internal_error()


class HeaderLimit:
    """Refuses requests with more than ``max_headers`` headers (431)."""

    def __init__(self, app: ASGIApp, max_headers: int) -> None:
        self._app = app
        self._max_headers = max_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or len(scope["headers"]) <= self._max_headers:
            await self._app(scope, receive, send)
            return
        message = (
            f"the request has more than {self._max_headers} headers (POMONA_GATEWAY_MAX_HEADERS)"
        )
        await refuse(RequestError(431, "too_many_headers", message), scope, receive, send)


class UnreadBodies:
    """Reads and discards the rest of a body after a 408, 413 or 415, for at most
    ``UNREAD_BODY_DEADLINE_S``.

    Closing a connection on which the client still sends resets it, and the client may never
    receive the response. So the response goes out first, and its last part only when the body
    has ended or the deadline has passed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = False

        async def send_then_discard(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] in (408, 413, 415):
                refused = True
                MutableHeaders(scope=message)["connection"] = "close"
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not (refused and last):
                await send(message)
                return
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(UNREAD_BODY_DEADLINE_S):
                    await _discard_body(receive)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, receive, send_then_discard)


async def refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Counts the error and sends it as the response."""
    scope["app"].state.gateway.count_error(error)
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    await error_response(error, scope, headers)(scope, receive, send)


async def _discard_body(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
