"""Sockets of the doorstep, at which unknown machines speak to the head.

They have Contexts of their own, so that strangers share no I/O thread with the cluster, and so that
this one authenticator, which admits every key, admits none elsewhere. CURVE proves the keys of
both sides; what a key may do is decided by the messages.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Final

import zmq
import zmq.asyncio

from pomona.errors import LinkError, ProtocolError
from pomona.messages.doorstep import (
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode,
)
from pomona.transport.authenticator import Authenticator

HIGH_WATER_MARK: Final = 64
HANDSHAKE_MS: Final = 2000


class DoorstepServer:
    """Receives requests of joiners, each with the public key that its sender has proven.

    Args:
        secret_key: the head's, hexadecimal.
        endpoint: where to bind; a Unix socket behind the gatekeeper, which limits connections.
    """

    def __init__(self, secret_key: str, endpoint: str) -> None:
        self._context = zmq.asyncio.Context()
        # Every key is admitted; its owner becomes the user of the connection.
        domain = Authenticator(zmq.Context(self._context)).add(lambda key: key)
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, HIGH_WATER_MARK),
            (zmq.RCVHWM, HIGH_WATER_MARK),
            (zmq.MAXMSGSIZE, MAX_REQUEST_BYTES),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
            (zmq.CURVE_SERVER, 1),
        ):
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(secret_key))
        self._socket.setsockopt(zmq.ZAP_DOMAIN, domain)
        self._socket.bind(endpoint)

    async def receive(self) -> tuple[bytes, str, Request]:
        """Returns the next request: its sender's address, its public key, and the message.

        Only one task may call it, and it must not be cancelled before shutdown. Raises
        ProtocolError for bytes that are not a request; the next call continues.
        """
        frames = await self._socket.recv_multipart(copy=False)
        if len(frames) != 2:
            raise ProtocolError("a request has one frame")
        return frames[0].bytes, str(frames[1].get("User-Id")), decode_request(frames[1].bytes)

    async def send(self, sender: bytes, reply: Reply) -> None:
        """Answers a request. A joiner that is gone gets nothing."""
        await self._socket.send_multipart([sender, encode(reply)])

    async def close(self) -> None:
        self._socket.close()
        # Waits for the authenticator's thread.
        await asyncio.to_thread(self._context.term)


class DoorstepClient:
    """A joiner's connection to the doorstep of the head with a known public key.

    Leaving the block closes it.

    Args:
        head_key: public key that the head must prove, hexadecimal.
        public_key, secret_key: the joiner's own.
    """

    def __init__(self, endpoint: str, head_key: str, public_key: str, secret_key: str) -> None:
        self._endpoint = endpoint
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.MAXMSGSIZE, MAX_REPLY_BYTES),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
            (zmq.CONNECT_TIMEOUT, HANDSHAKE_MS),
            (zmq.IMMEDIATE, 1),
        ):
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.CURVE_SERVERKEY, bytes.fromhex(head_key))
        self._socket.setsockopt(zmq.CURVE_PUBLICKEY, bytes.fromhex(public_key))
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(secret_key))
        self._socket.connect(endpoint)

    def ask(self, request: Request, deadline_s: float) -> Reply:
        """Sends a request and returns the answer.

        Raises LinkError when no answer comes in time, ProtocolError when it is not a message.
        """
        ends_at = time.monotonic() + deadline_s
        try:
            self._socket.setsockopt(zmq.SNDTIMEO, int(deadline_s * 1000))
            self._socket.send(encode(request))
            left_ms = max(1, int((ends_at - time.monotonic()) * 1000))
            self._socket.setsockopt(zmq.RCVTIMEO, left_ms)
            frames = self._socket.recv_multipart()
        except zmq.Again as error:
            raise LinkError(
                f"{self._endpoint} did not answer within {deadline_s:g} s, or does not have the "
                "key that it claims"
            ) from error
        if len(frames) != 1:
            raise ProtocolError("an answer of the doorstep has one frame")
        return decode_reply(frames[0])

    def __enter__(self) -> DoorstepClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close(linger=0)
        self._context.term()
