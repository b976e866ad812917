"""Data plane, for plain threads: a :class:`Push` sends messages to one :class:`Pull`.

Sockets are not thread-safe; each belongs to the thread that uses it.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq

from pomona.addresses import IPC_PREFIX, split_node
from pomona.errors import LinkBusyError, LinkError
from pomona.messages import codec
from pomona.messages.codec import Buffer, Message, MessageRest
from pomona.messages.limits import MAX_TENSOR_BYTES
from pomona.messages.pipeline import Body, Envelope, Tensor
from pomona.transport import curve
from pomona.transport.senders import Senders
from pomona.transport.sockets import configure, context, event_of
from pomona.transport.unix_sockets import private_socket_path
from pomona.trust import Trust

log = logging.getLogger(__name__)

DATA_HIGH_WATER_MARK: Final = 4096
FIRST_RETRY_S: Final = 0.05
MAX_RETRY_S: Final = 1.0
"""Pause before a refused link connects again, doubled each time."""
COPY_BYTES: Final = 65536
"""Smaller frames are copied when sent, like pyzmq's own default."""

_link_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Identity:
    """The sender's fields of every envelope."""

    cluster: str
    name: str
    boot: str


class Push:
    """Sending end of a link, connected to one PULL. Not thread-safe.

    A link that the other end does not admit connects again while messages are sent: that end may
    not have the newest roster yet, and libzmq itself does not try again.

    Args:
        deadline_s: longest wait for the peer in :meth:`send`, seconds.
        queue_when_disconnected: queues messages, up to the high-water mark, while the peer is
            unreachable. By default such a send waits and fails.
        monitored: counts connections, for :meth:`has_reconnected`.
        endpoint: may name its node (:func:`pomona.addresses.at_node`); without one it is of this
            node.
        trust: keys of this node; by default those of this process.

    Raises LinkError when the endpoint is not valid, or its node is not a member.
    """

    def __init__(
        self,
        identity: Identity,
        endpoint: str,
        deadline_s: float = 3.0,
        queue_when_disconnected: bool = False,
        monitored: bool = False,
        trust: Trust | None = None,
    ) -> None:
        self._trust = trust or curve.installed()
        self._roster = self._trust.roster if self._trust is not None else None
        self._node = split_node(endpoint)[1]
        self.endpoint = endpoint
        self._identity = identity
        self._deadline_s = deadline_s
        self._link = next(_link_numbers)
        self._seq = 0
        self._partial_name = b""
        self._socket = context().socket(zmq.PUSH)
        configure(self._socket, DATA_HIGH_WATER_MARK, MAX_TENSOR_BYTES)
        self._socket.setsockopt(zmq.IMMEDIATE, 0 if queue_when_disconnected else 1)
        self._connections = 0
        self._retry_s = FIRST_RETRY_S
        self._retry_at: float | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._named_endpoint = endpoint
        is_secure = self._trust is not None and not endpoint.startswith(IPC_PREFIX)
        if monitored or is_secure:
            self._monitor = self._socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            )
        try:
            self.endpoint = curve.connect(self._socket, endpoint, self._trust)
        except LinkError:
            self.close()
            raise

    def send(
        self,
        body: Body,
        epoch: int = 0,
        tensors: tuple[Tensor, ...] = (),
        buffers: Sequence[Buffer] = (),
        wait: bool = True,
    ) -> None:
        """Sends a message.

        Raises LinkBusyError, with nothing sent, when the peer takes no message before the
        deadline, or at once when ``wait`` is false.
        """
        envelope = self._envelope(body, epoch, tensors)
        self._send_frames(codec.encode_message(envelope, buffers), wait)
        self._advance()

    def send_first_part(
        self,
        body: Body,
        epoch: int,
        tensors: tuple[Tensor, ...],
        buffers: Sequence[Buffer] = (),
        soon: bool = False,
    ) -> None:
        """Sends the first part of a message while only the first ``buffers`` exist.

        :meth:`send_rest` must be the next call. ``soon`` tells the receiver to expect that
        within moments.

        Raises LinkBusyError like :meth:`send`.
        """
        envelope = self._envelope(body, epoch, tensors, len(tensors) - len(buffers), soon)
        self._send_frames(codec.encode_message(envelope, buffers))
        self._partial_name = codec.message_name(envelope)

    def send_rest(self, elapsed_us: int, buffers: Sequence[Buffer]) -> None:
        """Sends the remaining buffers of a partial message, and their compute time."""
        self._send_frames(codec.encode_rest(MessageRest(self._partial_name, elapsed_us, buffers)))
        self._advance()

    def has_reconnected(self) -> bool:
        """Returns whether a connection of a monitored link was lost and replaced.

        What was under way when it was lost has not arrived, and its receiver cannot tell before
        the next message.
        """
        self._read_events()
        return self._connections > 1

    def _read_events(self) -> None:
        """Counts connections, and notes a refused one."""
        while self._monitor is not None:
            try:
                event = event_of(self._monitor.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connections += 1
                self._retry_s, self._retry_at = FIRST_RETRY_S, None
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._retry_at = time.monotonic() + self._retry_s
                self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)

    def _wait_until_writable(self, deadline_s: float) -> bool:
        """Waits for the peer, and connects again when it has refused this node."""
        ends_at = time.monotonic() + deadline_s
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLOUT)
        if self._monitor is not None:
            poller.register(self._monitor, zmq.POLLIN)
        while True:
            self._read_events()
            now = time.monotonic()
            if self._retry_at is not None and now >= self._retry_at:
                self._connect_again()
            until = ends_at if self._retry_at is None else min(ends_at, self._retry_at)
            if self._socket in dict(poller.poll(math.ceil(max(0.0, until - now) * 1000))):
                return True
            if now >= ends_at:
                return False

    def _connect_again(self) -> None:
        self._retry_at = None
        with suppress(zmq.ZMQError):  # libzmq may have forgotten the endpoint already
            self._socket.disconnect(self.endpoint)
        curve.connect(self._socket, self._named_endpoint, self._trust)

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

    def _advance(self) -> None:
        self._seq += 1
        # ZeroMQ's I/O thread may need this core to put the message on the wire.
        os.sched_yield()

    def _send_frames(self, frames: Sequence[Buffer], wait: bool = True) -> None:
        """Does the work of send_multipart without its Python overhead, a fifth of the latency of a
        small message. Copying a small frame is cheaper than tracking its owner.
        """
        if self._trust is not None and self._trust.roster is not self._roster:
            self._check_membership()
        deadline_s = self._deadline_s if wait else 0.0
        last = len(frames) - 1
        try:
            for index, frame in enumerate(frames):
                flags = zmq.DONTWAIT | (zmq.SNDMORE if index < last else 0)
                try:
                    self._socket.send(frame, flags, copy=len(frame) < COPY_BYTES)
                except zmq.Again:
                    # A message that has begun goes to the same peer at once.
                    if index or not self._wait_until_writable(deadline_s):
                        raise
                    self._socket.send(frame, flags, copy=len(frame) < COPY_BYTES)
        except zmq.Again as error:
            raise LinkBusyError(self.endpoint, deadline_s) from error

    def _check_membership(self) -> None:
        """Raises LinkError when the node of the endpoint was revoked."""
        assert self._trust is not None
        self._roster = self._trust.roster
        if curve.server_key(self._trust, self._node) is None:
            self._roster = None
            raise LinkError(f"{self._node} at {self.endpoint} is not a member any more")

    def close(self, linger_s: float = 0.0) -> None:
        """Closes the link. Queued messages may leave within ``linger_s`` seconds."""
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._monitor = None
        self._socket.close(linger=int(linger_s * 1000))


class Pull:
    """Receiving end of links. Not thread-safe, except for the function :meth:`waker` returns.

    Args:
        host, port, setting: address to bind, and the setting to name when that fails.
        local_folder: state folder of the node. With it, processes of this machine and user reach
            the link by a Unix socket there too, about 20 us faster than by TCP.
        trust: keys of this node; by default those of this process.

    Attributes:
        local_endpoint: endpoint of the Unix socket; empty without one.
    """

    def __init__(
        self,
        host: str,
        port: int = 0,
        setting: str = "the data port",
        local_folder: Path | None = None,
        trust: Trust | None = None,
    ) -> None:
        self._socket = context().socket(zmq.PULL)
        configure(self._socket, DATA_HIGH_WATER_MARK, MAX_TENSOR_BYTES)
        self._wake_endpoint = f"inproc://wake-{id(self)}-{next(_link_numbers)}"
        self._socket.bind(self._wake_endpoint)
        self._timeout_ms = -1
        self._close_wakers: list[Callable[[], None]] = []
        # Before the socket is a CURVE server: the file system admits to this one.
        self.local_endpoint = self._bind_unix_socket(local_folder) if local_folder else ""
        self._senders = Senders(trust or curve.installed())
        self._refresh_lock = threading.Lock()
        self._wake_to_refresh = self.waker()
        try:
            self._listener = curve.Listener(
                self._socket,
                f"tcp://{host}:{port or '*'}",
                setting,
                trust or curve.installed(),
                wake=self._on_revocation,
            )
        except LinkError:
            self._close_sockets()
            raise
        self.endpoint = self._listener.endpoint

    def receive(self, timeout_s: float) -> Message | None:
        """Returns the next message, or None at the timeout or when a waker was called.

        Raises ProtocolError for bytes that are not a whole message, and for a message in the name
        of another node than the one that sent it; the next call continues with the next one.
        """
        frames, node = self._receive_frames(timeout_s)
        if not frames:
            return None
        message = codec.decode_message(frames)
        self._senders.check(message.envelope, node)
        return message

    def receive_part(self, timeout_s: float) -> Message | MessageRest | None:
        """Like :meth:`receive`, but accepts partial messages. A first part is a message without its
        last ``envelope.later`` buffers."""
        frames, node = self._receive_frames(timeout_s)
        if not frames:
            return None
        if codec.is_rest(frames):
            rest = codec.decode_rest(frames)
            self._senders.check_rest(rest.name, node)
            return rest
        message = codec.decode_part(frames)
        self._senders.check(message.envelope, node)
        return message

    def _receive_frames(self, timeout_s: float) -> tuple[list[Buffer], str]:
        """Returns the frames of a message and the id of the node whose connection brought it.

        Returns no frames at the timeout or when a waker was called. The id is empty for a local
        socket.
        """
        if self._listener.is_due:
            self._listener.refresh()
        timeout_ms = int(timeout_s * 1000)
        if timeout_ms and timeout_ms != self._timeout_ms:
            self._timeout_ms = timeout_ms
            self._socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
        try:
            frames = [self._socket.recv(0 if timeout_ms else zmq.DONTWAIT, copy=False)]
            while frames[-1].more:
                frames.append(self._socket.recv(copy=False))
        except zmq.Again:
            return [], ""
        if len(frames) == 1 and not len(frames[0].buffer):
            return [], ""
        node = curve.sender_of(frames[0]) if self._senders.are_checked else ""
        return [frame.buffer for frame in frames], node

    def _bind_unix_socket(self, folder: Path) -> str:
        try:
            endpoint = f"{IPC_PREFIX}{private_socket_path(folder)}"
            self._socket.bind(endpoint)
        except (OSError, zmq.ZMQError) as error:
            log.warning("no Unix socket, using TCP within this machine too: %s", error)
            return ""
        return endpoint

    def _on_revocation(self) -> None:
        """Makes :meth:`receive` look at the roster. Called in any thread."""
        with self._refresh_lock:
            self._wake_to_refresh()

    def waker(self) -> Callable[[], None]:
        """Returns a function with which one other thread interrupts :meth:`receive`."""
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
        self._listener.close()
        self._close_sockets()

    def _close_sockets(self) -> None:
        with self._refresh_lock:
            for close_waker in self._close_wakers:
                close_waker()
        self._socket.close(linger=0)
        if self.local_endpoint:
            with suppress(OSError):
                Path(self.local_endpoint.removeprefix(IPC_PREFIX)).unlink()


class LinkOrder:
    """Checks the sequence numbers of all links to this process."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = {}

    def gap(self, envelope: Envelope) -> tuple[int, int] | None:
        """Returns (expected, got) when messages before this one were lost, else None.

        A new link starts at 0.
        """
        key = (envelope.boot, envelope.link)
        expected = self._next.get(key, 0)
        self._next[key] = envelope.seq + 1
        return None if envelope.seq == expected else (expected, envelope.seq)
