"""Answers that end when their client does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from pomona.errors import RequestError
from pomona_gateway.http.errors import internal_error
from pomona_gateway.http.request_body import ClientGone

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run ``work``; cancel it as soon as the client is gone, and raise ClientGone.

    The body must have been read.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for running in (task, watcher):
            running.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class StreamAnswer:
    """A streamed answer: one ASGI application for one response.

    Args:
        chunks: the encoded parts. When it raises RequestError the error is encoded too, so
            that the stream ends with it and never in silence.
        on_error: encodes an error as the last part.
        stalled_s: seconds a client may leave a part unread.
        ended: called when the answer is over, even if it never began.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes],
        on_error: Callable[[RequestError], bytes],
        media_type: str,
        stalled_s: float,
        ended: Callable[[], None],
    ) -> None:
        self._chunks = chunks
        self._on_error = on_error
        self._media_type = media_type
        self._stalled_s = stalled_s
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._stream(send))
        except (ClientGone, TimeoutError, OSError):
            log.info("a client left its stream")
        finally:
            self._ended()

    async def _stream(self, send: Send) -> None:
        headers = [
            (b"content-type", self._media_type.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        async with aclosing(self._chunks) as chunks:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                async for chunk in chunks:
                    await self._part(send, chunk)
            except RequestError as error:
                await self._part(send, self._on_error(error))
            except (TimeoutError, OSError):
                raise
            except Exception:
                log.exception("a stream failed")
                await self._part(send, self._on_error(internal_error()))
            await self._part(send, b"", last=True)

    async def _part(self, send: Send, part: bytes, last: bool = False) -> None:
        async with asyncio.timeout(self._stalled_s):
            await send({"type": "http.response.body", "body": part, "more_body": not last})
        # Where much is ready nothing else here waits, and nobody would hear that the client left.
        await asyncio.sleep(0)
