"""Requests and replies between nodes, for plain threads: link measurements and model files.

A :class:`Requester` asks one :class:`Replier`. A reply is one message or several, so that a large
one arrives in parts, each within the deadline.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

import zmq

from pomona.errors import LinkBusyError, LinkError
from pomona.transport import curve
from pomona.transport.sockets import configure, context
from pomona.trust import Trust

log = logging.getLogger(__name__)

HIGH_WATER_MARK: Final = 256
MAX_MESSAGE_BYTES: Final = 64 << 20
POLL_MS: Final = 1000
JOIN_S: Final = 5.0

Handle = Callable[[Sequence[bytes], str], Iterable[Sequence[bytes]]]
"""Returns the messages of the reply to a request. The text is the id of the node that asks."""

_numbers = itertools.count(1)


class Replier:
    """Answers requests in threads of its own; the owner closes it.

    Args:
        host, port, setting: as in :class:`pomona.transport.Pull`.
        handle: called in one of the threads. A request at which it raises gets no reply.
        threads: requests that are handled at once.
        trust: keys of this node; by default those of this process.
    """

    def __init__(
        self,
        host: str,
        port: int,
        setting: str,
        handle: Handle,
        threads: int = 1,
        trust: Trust | None = None,
    ) -> None:
        self._handle = handle
        self._closing = threading.Event()
        number = next(_numbers)
        self._work_endpoint = f"inproc://replies-{number}"
        self._wake_endpoint = f"inproc://replies-wake-{number}"
        self._front = context().socket(zmq.ROUTER)
        configure(self._front, HIGH_WATER_MARK, MAX_MESSAGE_BYTES)
        self._back = _inproc(zmq.DEALER, self._work_endpoint, bound=True)
        self._wake_in = _inproc(zmq.PULL, self._wake_endpoint, bound=True)
        self._wake_out = _inproc(zmq.PUSH, self._wake_endpoint)
        self._wake_lock = threading.Lock()
        try:
            self._listener = curve.Listener(
                self._front,
                f"tcp://{host}:{port or '*'}",
                setting,
                trust or curve.installed(),
                wake=self._wake,
            )
        except LinkError:
            for socket in (self._front, self._back, self._wake_in, self._wake_out):
                socket.close(linger=0)
            raise
        self.endpoint = self._listener.endpoint
        self._threads = [
            threading.Thread(target=self._forward, name="replies", daemon=True),
            *(
                threading.Thread(target=self._work, name=f"replies {index}", daemon=True)
                for index in range(threads)
            ),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stops answering. A reply that is being sent may be cut off."""
        self._listener.close()
        self._closing.set()
        self._wake()
        for thread in self._threads:
            thread.join(JOIN_S)
        self._wake_out.close(linger=0)

    def _wake(self) -> None:
        with self._wake_lock, suppress(zmq.ZMQError):
            self._wake_out.send(b"", zmq.DONTWAIT)

    def _forward(self) -> None:
        poller = zmq.Poller()
        for socket in (self._front, self._back, self._wake_in):
            poller.register(socket, zmq.POLLIN)
        try:
            while not self._closing.is_set():
                ready = dict(poller.poll(POLL_MS))
                if self._wake_in in ready:
                    self._wake_in.recv()
                    self._listener.refresh()
                if self._front in ready:
                    frames = self._front.recv_multipart(copy=False)
                    sender = curve.sender_of(frames[-1]).encode()
                    self._back.send_multipart([frames[0], sender, *frames[1:]], copy=False)
                if self._back in ready:
                    self._front.send_multipart(self._back.recv_multipart(copy=False), copy=False)
        except zmq.ContextTerminated:
            pass
        finally:
            for socket in (self._front, self._back, self._wake_in):
                socket.close(linger=0)

    def _work(self) -> None:
        socket = _inproc(zmq.DEALER, self._work_endpoint)
        socket.setsockopt(zmq.RCVTIMEO, POLL_MS // 4)
        socket.setsockopt(zmq.SNDTIMEO, int(JOIN_S * 1000))
        try:
            while not self._closing.is_set():
                try:
                    peer, sender, *request = socket.recv_multipart()
                except zmq.Again:
                    continue
                try:
                    for message in self._handle(request, sender.decode()):
                        socket.send_multipart([peer, *message], copy=False)
                except zmq.ZMQError:
                    raise
                except Exception as error:
                    log.warning("a request is not answered: %s", error)
        except (zmq.ContextTerminated, zmq.Again):
            pass
        finally:
            socket.close(linger=0)


class Requester:
    """Connection to one :class:`Replier`. Not thread-safe.

    Args:
        endpoint: may name its node (:func:`pomona.addresses.at_node`).
        trust: keys of this node; by default those of this process.

    Raises LinkError when the endpoint is not valid, or its node is not a member.
    """

    def __init__(self, endpoint: str, trust: Trust | None = None) -> None:
        self._socket = context().socket(zmq.DEALER)
        configure(self._socket, HIGH_WATER_MARK, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        try:
            self.endpoint = curve.connect(self._socket, endpoint, trust or curve.installed())
        except LinkError:
            self.close()
            raise

    def send(self, *frames: bytes, timeout_s: float) -> None:
        """Sends a request. Raises LinkBusyError when there is no connection before the deadline."""
        self._socket.setsockopt(zmq.SNDTIMEO, int(timeout_s * 1000))
        try:
            self._socket.send_multipart(frames, copy=False)
        except zmq.Again as error:
            raise LinkBusyError(self.endpoint, timeout_s) from error

    def receive(self, timeout_s: float) -> list[bytes]:
        """Returns the next message. Raises LinkBusyError when none arrives before the deadline."""
        self._socket.setsockopt(zmq.RCVTIMEO, int(timeout_s * 1000))
        try:
            return self._socket.recv_multipart()
        except zmq.Again as error:
            raise LinkBusyError(self.endpoint, timeout_s) from error

    def close(self) -> None:
        self._socket.close(linger=0)


def _inproc(kind: int, endpoint: str, bound: bool = False) -> zmq.Socket[bytes]:
    socket = context().socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    if bound:
        socket.bind(endpoint)
    else:
        socket.connect(endpoint)
    return socket
