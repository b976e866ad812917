"""Typed wrappers over ZeroMQ; no other module imports it.

Control plane (asyncio): :class:`BeaconSender` and :class:`BeaconReceiver` connect to the
discovery service of their node, whose sockets are a :class:`Switchboard`.
Data plane (plain threads): a :class:`Push` carries messages to one :class:`Pull`. A socket
belongs to the thread that uses it.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import zmq
import zmq.asyncio

from pomona import codec
from pomona.addresses import SAME_MACHINE
from pomona.codec import Buffer, Message
from pomona.errors import AddressInUseError, LinkBusyError, LinkError, ProtocolError
from pomona.messages.control import Beacon
from pomona.messages.data import Body, Envelope, Tensor

DATA_HIGH_WATER_MARK: Final = 4096
CONTROL_HIGH_WATER_MARK: Final = 1024
MAX_MESSAGE_BYTES: Final = codec.MAX_TENSOR_BYTES
FAREWELL_LINGER_MS: Final = 500
COPY_BYTES: Final = 65536
"""Frames under this are copied when they are sent, as pyzmq itself would."""

_link_numbers = itertools.count(1)


def _context() -> zmq.Context[zmq.Socket[bytes]]:
    """The one Context of this process."""
    return zmq.Context.instance()


def terminate(deadline_s: float = 2 * FAREWELL_LINGER_MS / 1000) -> None:
    """End ZeroMQ in this process, so that what was just sent still leaves.

    A socket that somebody forgot to close would hold this up for ever: past the deadline
    it is left to the end of the process.
    """
    thread = threading.Thread(target=_context().term, name="zmq-term", daemon=True)
    thread.start()
    thread.join(deadline_s)


def _configure(
    socket: zmq.Socket[Any], high_water_mark: int, max_bytes: int = MAX_MESSAGE_BYTES
) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, high_water_mark)
    socket.setsockopt(zmq.RCVHWM, high_water_mark)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)


def _bind(socket: zmq.Socket[Any], endpoint: str, setting: str) -> str:
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        if error.errno == zmq.EADDRINUSE:
            raise AddressInUseError(endpoint, setting) from error
        if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise LinkError(
                f"cannot listen on {endpoint}: this machine has no such address now; change "
                f"POMONA_DATA_HOST, or the host that goes with {setting}"
            ) from error
        raise LinkError(f"cannot listen on {endpoint}: {error}; change {setting}") from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def _bind_local(socket: zmq.Socket[Any]) -> str:
    """Listen on an abstract Unix socket too, which leaves no file behind (``man 7 unix``): Linux
    has them. A message takes a fifth less time than over TCP there. Empty elsewhere."""
    if sys.platform != "linux":
        return ""
    socket.bind(f"{SAME_MACHINE}@pomona-{secrets.token_hex(16)}")
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


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
        self, identity: Identity, endpoint: str, deadline_s: float = 3.0, patient: bool = False
    ) -> None:
        self.endpoint = endpoint
        self._identity = identity
        self._deadline_s = deadline_s
        self._link = next(_link_numbers)
        self._seq = 0
        self._socket = _context().socket(zmq.PUSH)
        _configure(self._socket, DATA_HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.IMMEDIATE, 0 if patient else 1)
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
        frames = self._frames(body, epoch, tensors, buffers)
        self._send_frames(frames[:-1], more=True, wait=wait)
        self._end(frames[-1:], wait)

    def announce(
        self,
        body: Body,
        epoch: int,
        tensors: tuple[Tensor, ...],
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """Begin a message of which only the first ``buffers`` are known yet. Nothing leaves
        before :meth:`complete`, and nothing else may be sent until then.

        Raises LinkBusyError as :meth:`send`.
        """
        self._send_frames(self._frames(body, epoch, tensors, buffers), more=True)

    def complete(self, buffers: Sequence[Buffer]) -> None:
        """Send what was announced, with the rest of its buffers; at least one."""
        self._end(buffers)

    def _frames(
        self,
        body: Body,
        epoch: int,
        tensors: tuple[Tensor, ...],
        buffers: Sequence[Buffer],
    ) -> list[Buffer]:
        envelope = Envelope(
            version=codec.PROTOCOL_VERSION,
            cluster=self._identity.cluster,
            sender=self._identity.name,
            boot=self._identity.boot,
            link=self._link,
            seq=self._seq,
            epoch=epoch,
            body=body,
            tensors=tensors,
        )
        return codec.encode_message(envelope, buffers)

    def _end(self, frames: Sequence[Buffer], wait: bool = True) -> None:
        self._send_frames(frames, more=False, wait=wait)
        self._seq += 1
        # The thread that puts it on the wire goes first, should it need this processor.
        os.sched_yield()

    def _send_frames(self, frames: Sequence[Buffer], more: bool, wait: bool = True) -> None:
        """As send_multipart, less what that does in Python: a fifth of a small message's way.

        A small frame is copied, which costs less than keeping account of its owner.

        Args:
            more: other frames of the same message will follow.
        """
        flags = 0 if wait else zmq.DONTWAIT
        last = len(frames) - 1
        try:
            for index, frame in enumerate(frames):
                following = zmq.SNDMORE if more or index < last else 0
                self._socket.send(frame, flags | following, copy=len(frame) < COPY_BYTES)
        except zmq.Again as error:
            raise LinkBusyError(self.endpoint, self._deadline_s if wait else 0.0) from error

    def close(self, linger_s: float = 0.0) -> None:
        """Close; what was sent may still go out within ``linger_s`` seconds."""
        self._socket.close(linger=int(linger_s * 1000))


class Pull:
    """The receiving end of links. Not thread-safe, but for :meth:`waker`'s result.

    Attributes:
        endpoint: where others connect.
        local_endpoint: where processes of this machine may connect, at less cost; may be empty.
    """

    def __init__(self, host: str, port: int = 0, setting: str = "the data port") -> None:
        self._socket = _context().socket(zmq.PULL)
        _configure(self._socket, DATA_HIGH_WATER_MARK)
        self.endpoint = _bind(self._socket, f"tcp://{host}:{port or '*'}", setting)
        self.local_endpoint = _bind_local(self._socket)
        self._wake_endpoint = f"inproc://wake-{id(self)}-{next(_link_numbers)}"
        self._socket.bind(self._wake_endpoint)
        self._timeout_ms = -1
        self._last: Sequence[Buffer] = ()
        self._close_wakers: list[Callable[[], None]] = []

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None when none came in time or a waker was called.

        Raises ProtocolError for bytes that are no message; the next call goes on.
        """
        timeout_ms = int(timeout_s * 1000)
        if timeout_ms and timeout_ms != self._timeout_ms:
            self._timeout_ms = timeout_ms
            self._socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
        try:
            frames = [self._socket.recv(0 if timeout_ms else zmq.DONTWAIT, copy=False)]
            while frames[-1].more:
                frames.append(self._socket.recv(copy=False))
        except zmq.Again:
            return None
        if len(frames) == 1 and not len(frames[0].buffer):
            return None
        self._last = [frame.buffer for frame in frames]
        return codec.decode_message(self._last)

    def rehearse(self) -> None:
        """Do what the next message will need, so that its code is in the processor's caches.

        A thread that has slept for a tenth of a second decodes ten times slower.
        """
        if self._last:
            with suppress(ProtocolError):
                codec.decode_message(self._last)

    def waker(self) -> Callable[[], None]:
        """A function with which one other thread ends a :meth:`receive` at once."""
        socket = _context().socket(zmq.PUSH)
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


class BeaconSender:
    """Publishes beacons to the discovery service of this node.

    Closing lets the last beacon, which is the farewell, leave first.
    """

    def __init__(self, endpoint: str) -> None:
        self._socket = _context().socket(zmq.PUB)
        _configure(self._socket, CONTROL_HIGH_WATER_MARK, codec.MAX_BEACON_BYTES)
        self._socket.connect(endpoint)

    def send(self, beacon: Beacon) -> None:
        """Never blocks: a beacon that cannot go is lost, and the next one replaces it."""
        self._socket.send_multipart(codec.encode_beacon(beacon), flags=zmq.DONTWAIT)

    def close(self) -> None:
        self._socket.close(linger=FAREWELL_LINGER_MS)


class BeaconReceiver:
    """Hears every beacon of the cluster through the discovery service of this node.

    One task lives as long as the receiver and feeds a bounded queue: cancelling a receive
    can lose a message, so no receive is ever cancelled but at the end.
    """

    def __init__(self, endpoint: str, cluster: str) -> None:
        self.refused = 0
        self._cluster = cluster
        self._socket = zmq.asyncio.Context(_context()).socket(zmq.SUB)
        _configure(self._socket, CONTROL_HIGH_WATER_MARK, codec.MAX_BEACON_BYTES)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"beacon/")
        self._socket.connect(endpoint)
        self._queue: asyncio.Queue[Beacon] = asyncio.Queue(CONTROL_HIGH_WATER_MARK)
        self._task = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            try:
                beacon = codec.decode_beacon(frames)
            except ProtocolError:
                self.refused += 1
                continue
            if beacon.cluster != self._cluster:
                self.refused += 1
            elif not self._queue.full():
                self._queue.put_nowait(beacon)

    async def receive(self, timeout_s: float) -> Beacon | None:
        """The next beacon, or None when none came in time."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close(linger=0)


class Switchboard:
    """The sockets of a discovery service.

    Services of this node publish to ``publish`` (XSUB) and hear everything at
    ``subscribe`` (XPUB). Other nodes' switchboards publish to ``peer`` (a bound SUB), and
    this one to theirs (one PUB, connected to each).
    """

    def __init__(self, publish: str, subscribe: str, peer: str) -> None:
        context = zmq.asyncio.Context(_context())
        self._local_in = context.socket(zmq.XSUB)
        self._local_out = context.socket(zmq.XPUB)
        self._peer_in = context.socket(zmq.SUB)
        self._peer_out = context.socket(zmq.PUB)
        self._sockets = [self._local_in, self._local_out, self._peer_in, self._peer_out]
        for socket in self._sockets:
            _configure(socket, CONTROL_HIGH_WATER_MARK, codec.MAX_BEACON_BYTES)
        try:
            _bind(self._local_in, publish, "POMONA_CONTROL_PUBLISH")
            _bind(self._local_out, subscribe, "POMONA_CONTROL_SUBSCRIBE")
            self.peer_endpoint = _bind(self._peer_in, peer, "POMONA_DISCOVERY_PEER_PORT")
        except LinkError:
            self.close()
            raise
        # XSUB asks its publishers for everything by sending a subscription itself.
        self._local_in.send(b"\x01")
        self._peer_in.setsockopt(zmq.SUBSCRIBE, b"")

    async def receive_local(self) -> list[bytes]:
        """Frames published by a service of this node. One task only; never cancelled midway."""
        return await self._local_in.recv_multipart()

    async def receive_peer(self) -> list[bytes]:
        """Frames published by another node's switchboard."""
        return await self._peer_in.recv_multipart()

    async def drain_subscriptions(self) -> None:
        """Take in what XPUB reports of its subscribers, for ever; it is not needed."""
        while True:
            await self._local_out.recv()

    async def send_local(self, frames: Sequence[bytes]) -> None:
        await self._local_out.send_multipart(frames)

    async def send_peers(self, frames: Sequence[bytes]) -> None:
        await self._peer_out.send_multipart(frames)

    def connect_peer(self, endpoint: str) -> None:
        """Send to this switchboard too. Raises LinkError when it is no address."""
        try:
            self._peer_out.connect(endpoint)
        except zmq.ZMQError as error:
            raise LinkError(f"{endpoint} is no address of a peer: {error}") from error

    def disconnect_peer(self, endpoint: str) -> None:
        self._peer_out.disconnect(endpoint)

    def close(self) -> None:
        for socket in self._sockets:
            socket.close(linger=FAREWELL_LINGER_MS)
