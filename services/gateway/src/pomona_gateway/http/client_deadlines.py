"""A client connection with deadlines for the headers, which uvicorn does not have."""

from __future__ import annotations

import asyncio
import resource
import secrets
from collections.abc import Callable
from typing import Any

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from pomona.errors import RequestError
from pomona_gateway.http.errors import openai_error
from pomona_gateway.http.middleware import headers_too_large
from pomona_gateway.settings import GatewaySettings

RESERVED_FILES = 64
"""Descriptors that connections leave to everything else: files, links, prompt processes."""
REFUSED_S = 1.0
"""Seconds for which a connection that is refused stays open, so that its client reads why."""
PROBE_S = 0.3
MAX_PROBE_S = 5.0
"""Seconds between probes of a connection whose client has stopped sending, at first and at most.
A reset answers the first one, and the second one meets it."""
UNREAD_CLOSE_S = 10.0
"""Time in which a client that read too slowly may still read the end of its response."""
HALF_CLOSE_S = 0.02
"""Longest time from a request's last byte to the end of a half-closing client's input."""


class Connection(H11Protocol):
    """An HTTP/1.1 connection whose client must send a request's headers within a deadline.

    uvicorn waits without a limit for the first byte of a connection, for the rest of the
    headers, and for the rest of a body that no handler reads. Here each wait ends after
    ``headers_deadline_s``: with a 408 when part of the headers arrived, otherwise by closing
    the connection. Headers that are too large (431) or invalid (400) get the API's usual error
    object.

    Args:
        on_refused: called for every request that is refused here.
    """

    def __init__(
        self, settings: GatewaySettings, on_refused: Callable[[RequestError], None], **uvicorn: Any
    ) -> None:
        super().__init__(**uvicorn)
        self._deadline_s = settings.headers_deadline_s
        self._max_bytes = settings.max_headers_bytes
        self._on_refused = on_refused
        self._timer: asyncio.TimerHandle | None = None
        self._probe: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._last_data = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        super().connection_made(transport)
        self.app_state = {**self.app_state, "end_unread": self._end_unread}
        if not has_descriptors(transport):
            self._refuse_for_descriptors()
            return
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._last_data = self.loop.time()
        super().data_received(data)
        self._update_timer()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn never keeps it open
        """Keeps the connection open for the response if the client only stopped sending.

        A client that closes its connection looks the same. It is taken for one that half-closes
        if it announced that this request is its last, or stopped as soon as it had sent it.
        """
        if self._is_refused:
            return False
        cycle = self.cycle
        sent = self.conn.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        if not cycle or cycle.response_complete or not sent or self.scheme == "https":
            return False
        at_once = self.loop.time() - self._last_data < HALF_CLOSE_S
        if not at_once and cycle.keep_alive:
            return False
        cycle.keep_alive = False
        self._probe = self.loop.call_later(PROBE_S, self._probe_after_eof, PROBE_S)
        return True

    def _probe_after_eof(self, wait_s: float) -> None:
        """Sends ``100 Continue`` while there is no response, which every client skips.

        A client that closed its connection answers with a reset, by which it is told from one
        that still reads.
        """
        if self.transport.is_closing() or self.conn.our_state is not h11.SEND_RESPONSE:
            return
        if self.conn.their_http_version == b"1.0":
            return
        interim = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
        self.transport.write(self.conn.send(interim) or b"")
        following_s = min(2 * wait_s, MAX_PROBE_S)
        self._probe = self.loop.call_later(wait_s, self._probe_after_eof, following_s)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()
        if self._probe is not None:
            self._probe.cancel()

    def send_400_response(self, msg: str) -> None:
        """Refuses bytes that h11 cannot parse; uvicorn calls this."""
        if len(self.conn.trailing_data[0]) > self._max_bytes:
            self._refuse(headers_too_large(self._max_bytes))
        else:
            message = "this is not a valid HTTP/1.1 request"
            self._refuse(RequestError(400, "invalid_http", message))

    def _end_unread(self) -> None:
        """Lets the end of a response be written although its client does not read, and closes
        the connection ``UNREAD_CLOSE_S`` later."""
        self.flow.resume_writing()
        self.loop.call_later(UNREAD_CLOSE_S, self.transport.abort)

    def _update_timer(self) -> None:
        """Runs the deadline while the client owes bytes that no handler is waiting for."""
        waiting = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE
        if not waiting:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._deadline_s, self._on_deadline)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_deadline(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            message = (
                f"the request's headers did not arrive within {self._deadline_s:g} s "
                "(POMONA_GATEWAY_HEADERS_DEADLINE_S)"
            )
            self._refuse(RequestError(408, "headers_timeout", message))
        else:
            self.transport.close()

    def _refuse_for_descriptors(self) -> None:
        """Answers 503 before the request, and closes when the client has had time to read it."""
        self._is_refused = True
        message = "the gateway has too many open connections; try again in a moment"
        self._refuse(RequestError(503, "too_many_connections", message), REFUSED_S)

    def _refuse(self, error: RequestError, linger_s: float = 0.0) -> None:
        """Sends an error and closes the connection, even while a handler is responding on it.

        Args:
            linger_s: seconds to read on, since closing with unread data resets the connection;
                also the value of ``retry-after``.
        """
        self._on_refused(error)
        body = orjson.dumps(openai_error(error))
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("x-request-id", f"req_{secrets.token_hex(12)}"),
            ("connection", "close"),
            *([("retry-after", str(max(1, int(linger_s))))] if linger_s else []),
        ]
        response = h11.Response(status_code=error.status, headers=headers)
        try:
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # A response has begun, so the error cannot be sent; close only.
        if not linger_s:
            self.transport.close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(linger_s, self.transport.close)


def has_descriptors(transport: asyncio.Transport) -> bool:
    """Checks that this process can open some more files after the socket of a connection.

    The system gives the lowest free number to each.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    connection = transport.get_extra_info("socket")
    if limit == resource.RLIM_INFINITY or connection is None:
        return True
    return connection.fileno() < limit - min(RESERVED_FILES, limit // 4)
