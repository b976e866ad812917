"""How every socket of a process is made: one Context, finite queues, no lingering."""

from __future__ import annotations

import errno
import threading
from typing import Any, Final

import zmq

from pomona.errors import AddressInUseError, LinkError

FAREWELL_LINGER_MS: Final = 500


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """The one Context of this process."""
    return zmq.Context.instance()


def terminate(deadline_s: float = 2 * FAREWELL_LINGER_MS / 1000) -> None:
    """End ZeroMQ in this process, so that what was just sent still leaves.

    A socket that somebody forgot to close would hold this up for ever: past the deadline
    it is left to the end of the process.
    """
    thread = threading.Thread(target=context().term, name="zmq-term", daemon=True)
    thread.start()
    thread.join(deadline_s)


def configure(socket: zmq.Socket[Any], high_water_mark: int, max_bytes: int) -> None:
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


def bind(socket: zmq.Socket[Any], endpoint: str, setting: str) -> str:
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
