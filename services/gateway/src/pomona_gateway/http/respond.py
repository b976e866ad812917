"""JSON responses, error responses, and streamed responses that stop when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pomona.errors import RequestError
from pomona_gateway.http.errors import error_body, internal_error, retry_headers
from pomona_gateway.http.request_body import ClientDisconnected
from pomona_gateway.runs.run_context import current_run

log = logging.getLogger(__name__)

TOO_SLOW = "client_too_slow"
"""Code of the error that ends the stream of a client that reads too slowly."""

ResultT = TypeVar("ResultT")


def encode_json(content: Any) -> bytes:
    """Encodes JSON. Integers past 64 bits, which only an echoed schema has, are allowed."""
    try:
        return orjson.dumps(content)
    except TypeError:
        return to_json(content)


class JsonResponse(Response):
    """A response with a JSON body."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(content, status_code, headers)

    def render(self, content: Any) -> bytes:
        return encode_json(content)


def error_response(
    error: RequestError, scope: Scope, headers: dict[str, str] | None = None
) -> JsonResponse:
    """Returns the error in the dialect of the request."""
    headers = {**(headers or {}), **retry_headers(error)}
    return JsonResponse(error_body(error, scope), error.status, headers)


class StreamedResponse:
    """A streamed response, as an ASGI application for one request.

    Args:
        chunks: the encoded parts of the body.
        encode_error: encodes an error that ``chunks`` raises as the last part, so that a
            failed stream never ends in silence.
        stall_deadline_s: seconds a client may leave a part unread.
        on_end: called when the response is over, even if it never began; maybe twice.
        keep_alive_s: seconds without a part after which ``encode_keep_alive`` gives one, however
            the parts come about.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes],
        encode_error: Callable[[RequestError], bytes],
        media_type: str,
        stall_deadline_s: float,
        on_end: Callable[[], None],
        keep_alive_s: float,
        encode_keep_alive: Callable[[], bytes],
    ) -> None:
        self._keep_alive_s = keep_alive_s
        self._encode_keep_alive = encode_keep_alive
        self._sending = asyncio.Lock()
        self._sent_at = 0.0
        self._comment = b""
        self._chunks = chunks
        self._encode_error = encode_error
        self._media_type = media_type
        self._stall_deadline_s = stall_deadline_s
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._stream(scope, send))
        except (ClientDisconnected, UnreadError, OSError):
            log.info("a client left its stream")
        finally:
            self._on_end()

    async def _stream(self, scope: Scope, send: Send) -> None:
        headers = [
            (b"content-type", self._media_type.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        last = b""
        async with aclosing(self._chunks) as chunks:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            keeper = asyncio.create_task(self._keep_alive(send))
            try:
                async for chunk in chunks:
                    await self._send_part(send, chunk)
            except RequestError as error:
                last = self._encode_error(error)
                note_failure(error)
                if error.code == TOO_SLOW:
                    log_slow_client(scope, error)
            except UnreadError:
                last = self._encode_error(end_unread(scope, self._stall_deadline_s))
            except OSError:
                raise
            except Exception:
                log.exception("a stream failed")
                last = self._encode_error(internal_error())
                note_failure(internal_error())
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
        # A client may send its next request as soon as it has the last part: the key's limit
        # on concurrent requests must not count this one any more.
        self._on_end()
        try:
            await self._send_part(send, last, more=False)
        except UnreadError:
            last = self._encode_error(end_unread(scope, self._stall_deadline_s))
            await self._send_part(send, last, more=False)

    async def _keep_alive(self, send: Send) -> None:
        """Sends something, the last comment again if there was one, whenever nothing was sent for
        ``keep_alive_s`` seconds."""
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        while True:
            wait_s = self._sent_at + self._keep_alive_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif self._sending.locked():
                # Its client does not read; the stall deadline runs.
                await asyncio.sleep(self._keep_alive_s)
            else:
                await self._send_part(send, self._comment or self._encode_keep_alive())

    async def _send_part(self, send: Send, part: bytes, more: bool = True) -> None:
        async with self._sending:
            await send_part(send, part, self._stall_deadline_s, more)
        self._sent_at = asyncio.get_running_loop().time()
        self._comment = part if part.startswith(b":") else b""


class UnreadError(Exception):
    """A client has read nothing for as long as it may."""


async def send_part(send: Send, part: bytes, stall_deadline_s: float, more: bool = True) -> None:
    """Sends a part of a response. Raises UnreadError when its client does not read it."""
    try:
        async with asyncio.timeout(stall_deadline_s):
            await send({"type": "http.response.body", "body": part, "more_body": more})
    except TimeoutError as error:
        raise UnreadError from error
    # Without a pause here a stream whose chunks are all ready would never let the task run
    # that watches for the client's disconnect.
    await asyncio.sleep(0)


def end_unread(scope: Scope, stall_deadline_s: float) -> RequestError:
    """Prepares the end of a response that its client does not read. Returns the error for it."""
    error = RequestError(408, TOO_SLOW, f"the client read nothing for {stall_deadline_s:g} s")
    log_slow_client(scope, error)
    let_write: Callable[[], None] | None = scope["state"].get("end_unread")
    if let_write is not None:
        let_write()
    return error


def log_slow_client(scope: Scope, error: RequestError) -> None:
    """Logs why the response of a slow client ends."""
    request_id = scope.get("state", {}).get("request_id", "")
    log.warning(
        "a client reads too slowly; its stream ends: %s", error, extra={"request": request_id}
    )


def note_failure(error: RequestError) -> None:
    """Notes in the current run, if there is one, that its response is not whole."""
    run = current_run()
    if run is not None:
        run.error = error


async def while_connected(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Runs ``work`` and cancels it as soon as the client disconnects.

    The request's body must have been read. Raises ClientDisconnected.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        for running in (task, watcher):
            running.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
