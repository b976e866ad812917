"""Admits connections: the ZAP authenticator (ZeroMQ RFC 27) of this process's Context.

ZeroMQ asks it at the handshake only, about every CURVE connection to a bound socket. It answers 200
or 400 and nothing else: libzmq waits for ever on some other codes (issue 2329 of
zeromq/libzmq).
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

import zmq

log = logging.getLogger(__name__)

ENDPOINT: Final = "inproc://zeromq.zap.01"
VERSION: Final = b"1.0"
ADMITTED: Final = b"200"
REFUSED: Final = b"400"
CURVE: Final = b"CURVE"
KEY_BYTES: Final = 32
REQUEST_FRAMES: Final = 7
"""Version, request id, domain, address, identity, mechanism, key."""

Admit = Callable[[str], str]
"""Returns the user id for a public key in hexadecimal; empty when the key is not admitted."""


class Authenticator:
    """Answers the handshakes of one Context in a thread, until that Context ends."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._domains: dict[bytes, Admit] = {}
        self._numbers = itertools.count(1)
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="zap", daemon=True)
        self._thread.start()

    def add(self, admit: Admit) -> bytes:
        """Returns a new ZAP domain, whose connections ``admit`` decides about."""
        domain = f"pomona-{next(self._numbers)}".encode()
        self._domains[domain] = admit
        return domain

    def answer(self, request: Sequence[bytes]) -> list[bytes]:
        """Returns the answer to a request. Whatever is not understood is refused."""
        request_id = request[1] if len(request) > 1 else b""
        user = ""
        try:
            user = self._user(request)
        except Exception:
            log.exception("a handshake is refused")
        status = ADMITTED if user else REFUSED
        return [VERSION, request_id, status, b"", user.encode(), b""]

    def _user(self, request: Sequence[bytes]) -> str:
        if len(request) != REQUEST_FRAMES or request[0] != VERSION or request[5] != CURVE:
            return ""
        admit = self._domains.get(request[2])
        if admit is None or len(request[6]) != KEY_BYTES:
            return ""
        return admit(request[6].hex())

    def _run(self) -> None:
        try:
            while True:
                self._socket.send_multipart(self.answer(self._socket.recv_multipart()))
        except zmq.ContextTerminated:
            pass
        finally:
            self._socket.close(linger=0)


_guard = threading.Lock()
_current: list[tuple[zmq.Context[zmq.Socket[bytes]], Authenticator]] = []


def authenticator(context: zmq.Context[zmq.Socket[bytes]]) -> Authenticator:
    """Returns the authenticator of a Context, started at the first call."""
    with _guard:
        if not _current or _current[0][0] is not context:
            _current[:] = [(context, Authenticator(context))]
        return _current[0][1]
