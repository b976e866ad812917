"""Answers connections when the process has no descriptor left for them."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from contextlib import suppress
from typing import Any

import orjson

from pomona.errors import RequestError
from pomona_gateway.http.errors import openai_error

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 1.0
RETRY_AFTER_S = 5
READ_BYTES = 1 << 16
_USED_UP = frozenset({errno.EMFILE, errno.ENFILE})


class DescriptorReserve:
    """Handles errors of the event loop. It keeps two descriptors in reserve, to accept connections
    with when none is left, and to answer them with 503.

    asyncio reports such an error for every connection in the kernel's queue, which would fill the
    log; here they are one line a second.

    Args:
        encrypted: connections use TLS, so that they are closed without an answer.
    """

    def __init__(self, encrypted: bool = False) -> None:
        self._reserve: list[int] = []
        self._fill()
        self._logged_at = -LOG_INTERVAL_S
        self._refused = 0
        error = RequestError(
            503, "too_many_connections", "the gateway has too many open connections"
        )
        body = orjson.dumps(openai_error(error))
        head = (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nretry-after: {RETRY_AFTER_S}\r\n"
            "connection: close\r\n\r\n"
        )
        self._response = b"" if encrypted else head.encode() + body

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handles the errors of a loop from now on."""
        loop.set_exception_handler(self._on_error)

    def close(self) -> None:
        """Gives the reserve up."""
        while self._reserve:
            os.close(self._reserve.pop())

    def _fill(self) -> None:
        """Opens the reserve, as far as descriptors are left."""
        with suppress(OSError):
            while len(self._reserve) < 2:
                self._reserve.append(os.open(os.devnull, os.O_RDONLY))

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        listener = context.get("socket")
        if isinstance(error, ValueError) and "_start_serving" in repr(context.get("handle")):
            return  # asyncio tries to accept again, a second later, on a socket closed since
        if not isinstance(error, OSError) or error.errno not in _USED_UP or listener is None:
            loop.default_exception_handler(context)
            return
        self._refused += self._answer(listener)
        now = time.monotonic()
        if now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            log.error(
                "no descriptor is left for a connection; raise the limit of open files (ulimit -n)",
                extra={"refused": self._refused},
            )

    def _answer(self, listener: Any) -> bool:
        """Accepts a connection with the reserve, answers it and closes it."""
        self.close()
        try:
            with socket.socket(fileno=os.dup(listener.fileno())) as own:
                own.setblocking(False)
                return self._accept(own)
        except OSError:
            return False
        finally:
            self._fill()

    def _accept(self, own: socket.socket) -> bool:
        connection, _ = own.accept()
        with connection:
            connection.setblocking(False)
            with suppress(OSError):
                connection.send(self._response)
                connection.shutdown(socket.SHUT_WR)
                # What is unread when a connection is closed resets it, and the answer is lost.
                connection.recv(READ_BYTES)
        return True
