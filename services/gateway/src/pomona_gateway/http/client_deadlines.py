"""A client connection with deadlines for the headers, which uvicorn does not have."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from pomona.errors import RequestError
from pomona_gateway.http.errors import openai_error
from pomona_gateway.settings import GatewaySettings

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
        self._last_data = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        super().connection_made(transport)
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        self._last_data = self.loop.time()
        super().data_received(data)
        self._update_timer()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn never keeps it open
        """Keeps the connection open for the response if the client only stopped sending.

        A client that closes its connection looks the same. It is taken for one that half-closes
        if it announced that this request is its last, or stopped as soon as it had sent it.
        """
        cycle = self.cycle
        sent = self.conn.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        if not cycle or cycle.response_complete or not sent or self.scheme == "https":
            return False
        at_once = self.loop.time() - self._last_data < HALF_CLOSE_S
        if not at_once and cycle.keep_alive:
            return False
        cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        """Refuses bytes that h11 cannot parse; uvicorn calls this."""
        if len(self.conn.trailing_data[0]) > self._max_bytes:
            self._refuse(
                431,
                "headers_too_large",
                f"the request's headers are larger than {self._max_bytes} bytes "
                "(POMONA_GATEWAY_MAX_HEADERS_BYTES)",
            )
        else:
            self._refuse(400, "invalid_http", "this is not a valid HTTP/1.1 request")

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
            self._refuse(
                408,
                "headers_timeout",
                f"the request's headers did not arrive within {self._deadline_s:g} s "
                "(POMONA_GATEWAY_HEADERS_DEADLINE_S)",
            )
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Sends an error and closes the connection, even while a handler is responding on it."""
        error = RequestError(status, code, message)
        self._on_refused(error)
        body = orjson.dumps(openai_error(error))
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("x-request-id", f"req_{secrets.token_hex(12)}"),
            ("connection", "close"),
        ]
        response = h11.Response(status_code=status, headers=headers)
        try:
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # A response has begun, so the error cannot be sent; close only.
        self.transport.close()
