"""Messages between a process and a child of its own, through a pair of connected Unix sockets.

A sender writes to the socket itself and a receiver reads from it, without a thread between them,
which halves the time of a message. A message is the number of frames, their sizes, and their bytes.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from pomona.errors import LinkBusyError, ProtocolError
from pomona.messages.codec import Buffer
from pomona.messages.limits import MAX_TENSOR_BYTES, MAX_TENSORS

SEND_DEADLINE_S: Final = 5.0
SOCKET_BUFFER_BYTES: Final = 1 << 20
MAX_FRAMES: Final = 2 * MAX_TENSORS + 1
"""A header, a stage's tensors, and those of a prompt's results."""
READ_BYTES: Final = 1 << 16
SIZE: Final = struct.Struct("<Q")


class Channel:
    """One end of a connection between two processes. Used by one thread at a time.

    Args:
        end: connected stream socket.
        name: name of the other end, for errors.
    """

    def __init__(self, end: socket.socket, name: str) -> None:
        self._socket = end
        self._name = name
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        # Bytes that were read, and of the message that arrives now: sizes, whole frames, and the
        # large frame that is read into its place.
        self._data = bytearray()
        self._sizes: list[int] = []
        self._frames: list[Buffer] = []
        self._large: memoryview | None = None
        self._filled = 0
        end.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)

    @classmethod
    def pair(cls, name: str) -> tuple[Channel, socket.socket]:
        """Returns the parent's end, and the child's, which the child inherits by its number.

        The parent closes the child's end once the child runs.
        """
        own, other = socket.socketpair()
        return cls(own, name), other

    @classmethod
    def inherited(cls, number: int) -> Channel:
        """Returns the child's end by the number of its descriptor."""
        return cls(socket.socket(fileno=number), "the parent")

    def send(self, frames: Sequence[Buffer]) -> None:
        """Sends a message; it is lost when the other process has ended.

        Raises LinkBusyError when the other end takes nothing in time.
        """
        views = [memoryview(frame).cast("B") for frame in frames]
        sizes = b"".join(SIZE.pack(number) for number in (len(views), *map(len, views)))
        left = [memoryview(sizes), *(view for view in views if len(view))]
        ends_at = time.monotonic() + SEND_DEADLINE_S
        while left:
            try:
                sent = self._socket.sendmsg(left)
            except BlockingIOError:
                self._wait_until_writable(ends_at)
                continue
            except ConnectionError:
                return
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if left:
                left[0] = left[0][sent:]

    def receive(self, timeout_s: float, spin_s: float = 0.0) -> list[Buffer] | None:
        """Returns the frames of the next message, or None at the timeout.

        Args:
            spin_s: seconds of that in which it polls without sleeping, which saves a wake-up.

        Raises:
            ConnectionError: the other process has ended, and all of its messages were returned.
            ProtocolError: the other end sent no message.
        """
        began = time.monotonic()
        spins_until, ends_at = began + spin_s, began + timeout_s
        while not self._take():
            try:
                self._read()
            except BlockingIOError:
                if spin_s and time.monotonic() < spins_until:
                    os.sched_yield()
                elif not self._poll.poll(max(ends_at - time.monotonic(), 0.0) * 1000):
                    return None
        frames, self._frames, self._sizes = self._frames, [], []
        return frames

    def wait(self, timeout_s: float) -> None:
        """Sleeps until something arrives, at most ``timeout_s`` seconds, in whole milliseconds."""
        self._poll.poll(int(timeout_s * 1000))

    def close(self) -> None:
        """Closes this end. What was sent still arrives."""
        self._socket.close()

    def _read(self) -> None:
        """Reads what has arrived: of a large frame into its place, else all there is."""
        if self._large is None:
            data = self._socket.recv(READ_BYTES)
            count = len(data)
            self._data += data
        else:
            count = self._socket.recv_into(self._large[self._filled :])
            self._filled += count
        if not count:
            raise ConnectionResetError(f"{self._name} has closed its end")

    def _take(self) -> bool:
        """Takes frames out of the bytes that were read. Returns whether the message is whole."""
        if not self._sizes and not self._take_sizes():
            return False
        while len(self._frames) < len(self._sizes):
            size = self._sizes[len(self._frames)]
            if self._large is not None:
                if self._filled < size:
                    return False
                self._frames.append(self._large)
                self._large = None
            elif len(self._data) >= size:
                self._frames.append(bytes(self._data[:size]))
                del self._data[:size]
            elif size > READ_BYTES:
                self._large = memoryview(bytearray(size))
                self._filled = len(self._data)
                self._large[: self._filled] = self._data
                self._data.clear()
            else:
                return False
        return True

    def _take_sizes(self) -> bool:
        if len(self._data) < SIZE.size:
            return False
        (count,) = SIZE.unpack_from(self._data)
        if not 0 < count <= MAX_FRAMES:
            raise ProtocolError(f"{self._name} sent a message of {count} frames")
        end = (count + 1) * SIZE.size
        if len(self._data) < end:
            return False
        sizes = [size for (size,) in SIZE.iter_unpack(self._data[SIZE.size : end])]
        if max(sizes) > MAX_TENSOR_BYTES:
            raise ProtocolError(f"{self._name} sent a frame of {max(sizes)} bytes")
        self._sizes = sizes
        del self._data[:end]
        return True

    def _wait_until_writable(self, ends_at: float) -> None:
        left_s = ends_at - time.monotonic()
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise LinkBusyError(self._name, SEND_DEADLINE_S)
