"""Pure ASGI middleware: request ids, unexpected errors, header checks, unread bodies."""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import secrets
from collections.abc import Mapping
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


class HeaderCheck:
    """Refuses requests with too many or too large headers (431), and those whose length two headers
    state (400; https://www.rfc-editor.org/rfc/rfc9112#section-6.1), and closes the connection.

    The parser bounds only what arrives in several parts.

    Args:
        max_headers: maximum number of headers.
        max_bytes: maximum size of the request line and the headers.
    """

    def __init__(self, app: ASGIApp, max_headers: int, max_bytes: int) -> None:
        self._app = app
        self._max_headers = max_headers
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._check(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
        else:
            await refuse(error, scope, receive, send, {"connection": "close"})

    def _check(self, scope: Scope) -> RequestError | None:
        headers = scope["headers"]
        if len(headers) > self._max_headers:
            return RequestError(
                431,
                "too_many_headers",
                f"the request has more than {self._max_headers} headers "
                "(POMONA_GATEWAY_MAX_HEADERS)",
            )
        line = len(scope["method"]) + len(scope["raw_path"]) + len(scope["query_string"])
        if line + sum(len(name) + len(value) + 4 for name, value in headers) > self._max_bytes:
            return headers_too_large(self._max_bytes)
        names = {name for name, _ in headers}
        stated_twice = b"content-length" in names or scope["http_version"] == "1.0"
        if b"transfer-encoding" in names and stated_twice:
            message = "the request has a transfer-encoding and another statement of its length"
            return RequestError(400, "invalid_http", message)
        return None


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


def headers_too_large(max_bytes: int) -> RequestError:
    """Returns the error for a request line and headers of more than ``max_bytes``."""
    message = (
        f"the request's headers are larger than {max_bytes} bytes "
        "(POMONA_GATEWAY_MAX_HEADERS_BYTES)"
    )
    return RequestError(431, "headers_too_large", message)


async def refuse(
    error: RequestError,
    scope: Scope,
    receive: Receive,
    send: Send,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Counts the error and sends it as the response."""
    scope["app"].state.gateway.count_error(error)
    headers = {**(headers or {}), **({"www-authenticate": "Bearer"} if error.status == 401 else {})}
    await error_response(error, scope, headers)(scope, receive, send)


async def _discard_body(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
