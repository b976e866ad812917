"""Data plane, for plain threads: a :class:`Push` carries messages to one :class:`Pull`. A socket
belongs to the thread that uses it."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import zmq

from pomona.addresses import IPC_PREFIX
from pomona.errors import LinkBusyError, LinkError
from pomona.messages import codec, limits
from pomona.messages.codec import Buffer, Message, MessageRest
from pomona.messages.pipeline import Body, Envelope, Tensor
from pomona.transport.sockets import bind, configure, context

log = logging.getLogger(__name__)

DATA_HIGH_WATER_MARK: Final = 4096
COPY_BYTES: Final = 65536
"""Frames under this are copied when they are sent, as pyzmq itself would."""

_link_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sends: what every envelope says of its sender."""

    cluster: str
    name: str
    boot: str


class Push:
    """The sending end of a link: connects to one PULL. Not thread-safe.

    A ``patient`` link takes messages, up to the high-water mark, also while its peer cannot
    be reached; any other takes none then.
    """

    def __init__(
        self,
        identity: Identity,
        endpoint: str,
        deadline_s: float = 3.0,
        queue_when_disconnected: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self._identity = identity
        self._deadline_s = deadline_s
        self._link = next(_link_numbers)
        self._seq = 0
        self._begun = b""
        self._socket = context().socket(zmq.PUSH)
        configure(self._socket, DATA_HIGH_WATER_MARK, limits.MAX_TENSOR_BYTES)
        self._socket.setsockopt(zmq.IMMEDIATE, 0 if queue_when_disconnected else 1)
        self._socket.setsockopt(zmq.SNDTIMEO, int(deadline_s * 1000))
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self._socket.close()
            raise LinkError(f"{endpoint} is no address to send to: {error}") from error

    def send(
        self,
        body: Body,
        epoch: int = 0,
        tensors: tuple[Tensor, ...] = (),
        buffers: Sequence[Buffer] = (),
        wait: bool = True,
    ) -> None:
        """Send a message. Raises LinkBusyError when the peer takes none before the deadline,
        or, without ``wait``, when it cannot take one now; nothing was sent then."""
        envelope = self._envelope(body, epoch, tensors)
        self._send_frames(codec.encode_message(envelope, buffers), wait)
        self._end()

    def send_first_part(
        self,
        body: Body,
        epoch: int,
        tensors: tuple[Tensor, ...],
        buffers: Sequence[Buffer] = (),
        soon: bool = False,
    ) -> None:
        """Send the first part of a message of which only the first ``buffers`` are known yet.
        Nothing else may be sent before :meth:`complete`, which follows ``soon``, or later.

        Raises LinkBusyError as :meth:`send`.
        """
        envelope = self._envelope(body, epoch, tensors, len(tensors) - len(buffers), soon)
        self._send_frames(codec.encode_message(envelope, buffers))
        self._begun = codec.message_name(envelope)

    def send_rest(self, elapsed_us: int, buffers: Sequence[Buffer]) -> None:
        """Send the rest of the buffers of the message that was begun, and how long they took."""
        self._send_frames(codec.encode_rest(MessageRest(self._begun, elapsed_us, buffers)))
        self._end()

    def _envelope(
        self,
        body: Body,
        epoch: int,
        tensors: tuple[Tensor, ...],
        later: int = 0,
        soon: bool = False,
    ) -> Envelope:
        return Envelope(
            version=codec.PROTOCOL_VERSION,
            cluster=self._identity.cluster,
            sender=self._identity.name,
            boot=self._identity.boot,
            link=self._link,
            seq=self._seq,
            epoch=epoch,
            body=body,
            tensors=tensors,
            later=later,
            soon=soon,
        )

    def _end(self) -> None:
        self._seq += 1
        # The thread that puts it on the wire goes first, should it need this processor.
        os.sched_yield()

    def _send_frames(self, frames: Sequence[Buffer], wait: bool = True) -> None:
        """As send_multipart, less what that does in Python: a fifth of a small message's way.

        A small frame is copied, which costs less than keeping account of its owner.
        """
        flags = 0 if wait else zmq.DONTWAIT
        last = len(frames) - 1
        try:
            for index, frame in enumerate(frames):
                more = zmq.SNDMORE if index < last else 0
                self._socket.send(frame, flags | more, copy=len(frame) < COPY_BYTES)
        except zmq.Again as error:
            raise LinkBusyError(self.endpoint, self._deadline_s if wait else 0.0) from error

    def close(self, linger_s: float = 0.0) -> None:
        """Close; what was sent may still go out within ``linger_s`` seconds."""
        self._socket.close(linger=int(linger_s * 1000))


class Pull:
    """The receiving end of links. Not thread-safe, but for :meth:`waker`'s result."""

    def __init__(self, host: str, port: int = 0, setting: str = "the data port") -> None:
        self._socket = context().socket(zmq.PULL)
        configure(self._socket, DATA_HIGH_WATER_MARK, limits.MAX_TENSOR_BYTES)
        self.endpoint = bind(self._socket, f"tcp://{host}:{port or '*'}", setting)
        self._wake_endpoint = f"inproc://wake-{id(self)}-{next(_link_numbers)}"
        self._socket.bind(self._wake_endpoint)
        self._timeout_ms = -1
        self._close_wakers: list[Callable[[], None]] = []

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None when none came in time or a waker was called.

        Raises ProtocolError for bytes that are no whole message; the next call goes on.
        """
        frames = self._receive_frames(timeout_s)
        return codec.decode_message(frames) if frames else None

    def receive_part(self, timeout_s: float) -> Message | MessageRest | None:
        """As :meth:`receive`, where messages may come in two parts. The first is a message whose
        ``envelope.later`` last buffers are missing."""
        frames = self._receive_frames(timeout_s)
        if not frames:
            return None
        if codec.is_rest(frames):
            return codec.decode_rest(frames)
        return codec.decode_part(frames)

    def _receive_frames(self, timeout_s: float) -> list[Buffer]:
        """Empty when none came in time or a waker was called."""
        timeout_ms = int(timeout_s * 1000)
        if timeout_ms and timeout_ms != self._timeout_ms:
            self._timeout_ms = timeout_ms
            self._socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
        try:
            frames = [self._socket.recv(0 if timeout_ms else zmq.DONTWAIT, copy=False)]
            while frames[-1].more:
                frames.append(self._socket.recv(copy=False))
        except zmq.Again:
            return []
        if len(frames) == 1 and not len(frames[0].buffer):
            return []
        return [frame.buffer for frame in frames]

    def bind_unix_socket(self) -> str:
        """Listen on an abstract Unix socket too, which leaves no file behind (``man 7 unix``).

        Returns: the endpoint, for processes of this machine: a message takes some 20 us less
        than over TCP. Empty where there is none, as on macOS.
        """
        if sys.platform != "linux":
            return ""
        endpoint = f"{IPC_PREFIX}@pomona-{secrets.token_hex(8)}"
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            log.warning("no Unix socket, so TCP also within this machine: %s", error)
            return ""
        return endpoint

    def waker(self) -> Callable[[], None]:
        """A function with which one other thread ends a :meth:`receive` at once."""
        socket = context().socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self._wake_endpoint)

        def wake() -> None:
            if not socket.closed:
                socket.send(b"")

        def close() -> None:
            socket.close(linger=0)

        self._close_wakers.append(close)
        return wake

    def close(self) -> None:
        for close_waker in self._close_wakers:
            close_waker()
        self._socket.close(linger=0)


class LinkOrder:
    """Watches the sequence numbers of every link that ends here."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = {}

    def gap(self, envelope: Envelope) -> tuple[int, int] | None:
        """(expected, got) when messages before this one were lost, else None.

        A link that is heard for the first time begins at 0.
        """
        key = (envelope.boot, envelope.link)
        expected = self._next.get(key, 0)
        self._next[key] = envelope.seq + 1
        return None if envelope.seq == expected else (expected, envelope.seq)
