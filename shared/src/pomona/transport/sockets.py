"""Creates and configures sockets: one Context per process, bounded queues, no linger."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import zmq

from pomona.errors import AddressInUseError, LinkError
from pomona.ports import attempts, bind_free_port

CLOSE_LINGER_MS: Final = 500
"""Time that the last beacon may take to leave after its socket was closed."""

CONNECT_DEADLINE_MS: Final = 2000
"""Time for a TCP connection, and then for ZeroMQ's handshake. After it both are tried again."""

REBIND_DEADLINE_S: Final = 5.0
REBIND_INTERVAL_S: Final = 0.005


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """Returns the Context of this process."""
    return zmq.Context.instance()


def terminate(deadline_s: float = 2 * CLOSE_LINGER_MS / 1000) -> None:
    """Terminates the Context, which lets messages within their linger time leave.

    A socket that is still open would block termination for ever, so the call returns at the
    deadline and leaves the rest to process exit.
    """
    thread = threading.Thread(target=context().term, name="zmq-term", daemon=True)
    thread.start()
    thread.join(deadline_s)


def event_of(frames: Sequence[bytes]) -> int:
    """Returns the event number of a message of a socket monitor."""
    return int.from_bytes(frames[0][:2], sys.byteorder)


def configure(socket: zmq.Socket[Any], high_water_mark: int, max_bytes: int) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, high_water_mark)
    socket.setsockopt(zmq.RCVHWM, high_water_mark)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 250)
    # Without these a connect waits for the kernel's retries of SYN, which take a minute.
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_DEADLINE_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, CONNECT_DEADLINE_MS)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)


def _bind(socket: zmq.Socket[Any], endpoint: str) -> None:
    """Binds a socket. Raises OSError, of which ZMQError is not a kind."""
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise OSError(error.errno or 0, str(error)) from error


def _bind_port(socket: zmq.Socket[Any], endpoint: str, host: str, port: int) -> None:
    error: OSError | None = None
    for _ in attempts(host, port):
        try:
            _bind(socket, endpoint)
        except OSError as failed:
            if failed.errno != errno.EADDRINUSE:
                raise
            error = failed
        else:
            return
    if error is not None:
        raise error


def bind_again(socket: zmq.Socket[Any], endpoint: str) -> None:
    """Binds an endpoint that the same socket has just unbound, which libzmq does in another thread.

    Raises LinkError when another process has taken it, or it is not free within the deadline.
    """
    ends_at = time.monotonic() + REBIND_DEADLINE_S
    while True:
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > ends_at:
                raise LinkError(f"cannot listen on {endpoint} again: {error}") from error
            time.sleep(REBIND_INTERVAL_S)
        else:
            return


def bind(socket: zmq.Socket[Any], endpoint: str, setting: str) -> str:
    """Binds a socket and returns its endpoint with the actual port. Closes it on failure.

    A port that a closed connection still holds is waited for.

    Args:
        endpoint: with ``*`` as the port, a free one is taken.

    Raises AddressInUseError or LinkError, which name ``setting`` as the setting to change.
    """
    address, _, port = endpoint.rpartition(":")
    try:
        if endpoint.startswith("tcp://") and port == "*":
            bind_free_port(lambda free: _bind(socket, f"{address}:{free or '*'}"))
        elif endpoint.startswith("tcp://") and port.isdecimal():
            _bind_port(socket, endpoint, address.removeprefix("tcp://"), int(port))
        else:
            _bind(socket, endpoint)
    except OSError as error:
        socket.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(endpoint, setting) from error
        if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise LinkError(
                f"cannot listen on {endpoint}: this machine does not have that address now; change "
                f"POMONA_DATA_HOST, or the host setting next to {setting}"
            ) from error
        raise LinkError(f"cannot listen on {endpoint}: {error}; change {setting}") from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
