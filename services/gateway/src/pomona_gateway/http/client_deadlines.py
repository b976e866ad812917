"""One client's connection: what uvicorn leaves open to a slow or lavish client has an end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from pomona.errors import RequestError
from pomona_gateway.http.errors import error_body
from pomona_gateway.settings import GatewaySettings


class Connection(H11Protocol):
    """HTTP/1.1 whose clients must send the head of a request within a deadline.

    uvicorn waits for ever for the first byte of a connection and for the rest of a head, and
    for the rest of a body that nobody reads any more. Here the wait ends: with 408 when a
    part of a head came, without a word when nothing did. A head that is too large or no HTTP
    is answered in the form of the API's other errors.

    Args:
        refused: told of every request that is answered here.
    """

    def __init__(
        self, settings: GatewaySettings, refused: Callable[[RequestError], None], **uvicorn: Any
    ) -> None:
        super().__init__(**uvicorn)
        self._deadline_s = settings.headers_deadline_s
        self._max_bytes = settings.max_headers_bytes
        self._refused = refused
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this for what is no HTTP."""
        if len(self.conn.trailing_data[0]) > self._max_bytes:
            self._refuse(
                431,
                "headers_too_large",
                f"the request's headers are larger than {self._max_bytes} bytes "
                "(POMONA_GATEWAY_MAX_HEADERS_BYTES)",
            )
        else:
            self._refuse(400, "invalid_http", "this is no HTTP/1.1 request")

    def _watch(self) -> None:
        """Have a deadline run while something of the client is awaited that no handler
        waits for."""
        awaited = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE
        if not awaited:
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._deadline_s, self._late)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
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
        """Answer and close. What a handler was answering on this connection is over."""
        error = RequestError(status, code, message)
        self._refused(error)
        body = orjson.dumps(error_body(error))
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
            pass  # An answer had begun: its end is all that is left to say.
        self.transport.close()
