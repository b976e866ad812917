"""Frames between a process and a child of its own, through a Unix socket of this user."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import zmq

from pomona.errors import LinkBusyError
from pomona.messages.codec import Buffer
from pomona.messages.limits import MAX_TENSOR_BYTES
from pomona.transport.sockets import configure, context
from pomona.transport.unix_sockets import private_socket_path

IPC: Final = "ipc://"
SEND_DEADLINE_S: Final = 5.0
QUEUE: Final = 64


class Channel:
    """One end of a connection between two processes. Used by one thread at a time.

    Attributes:
        endpoint: address of the socket, for the child.
    """

    def __init__(self, endpoint: str, folder: Path | None = None) -> None:
        """Use :meth:`listen` or :meth:`connect`."""
        self.endpoint = endpoint
        self._is_owner = folder is not None
        self._socket = context().socket(zmq.PAIR)
        configure(self._socket, QUEUE, MAX_TENSOR_BYTES)
        self._socket.setsockopt(zmq.SNDTIMEO, int(SEND_DEADLINE_S * 1000))
        if self._is_owner:
            self._socket.bind(endpoint)
        else:
            self._socket.connect(endpoint)

    @classmethod
    def listen(cls, folder: Path) -> Channel:
        """Opens the parent's end. Raises OSError when the folder cannot be made.

        Args:
            folder: state folder of the node.
        """
        return cls(f"{IPC}{private_socket_path(folder)}", folder)

    @classmethod
    def connect(cls, endpoint: str) -> Channel:
        """Opens the child's end."""
        return cls(endpoint)

    def send(self, frames: Sequence[Buffer]) -> None:
        """Raises LinkBusyError when the other end takes no message in time."""
        try:
            self._socket.send_multipart(frames)
        except zmq.Again as error:
            raise LinkBusyError(self.endpoint, SEND_DEADLINE_S) from error

    def receive(self, timeout_s: float) -> list[bytes] | None:
        """Returns the frames of the next message, or None at the timeout."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        return self._socket.recv_multipart()

    def close(self, linger_s: float = 0.0) -> None:
        """Closes this end. Queued messages may leave within ``linger_s`` seconds."""
        self._socket.close(linger=int(linger_s * 1000))
        if self._is_owner:
            with suppress(OSError):
                Path(self.endpoint.removeprefix(IPC)).unlink()
