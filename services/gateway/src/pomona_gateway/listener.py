"""The listening socket of the API: bound here, or inherited from the gateway's supervisor.

A socket that a supervisor binds outlives the gateway: while no gateway runs, the kernel keeps
the clients' connections, and nothing else can take the port. It is inherited from

- ``pomona up`` and other supervisors: ``POMONA_GATEWAY_LISTEN_FD`` names the descriptor;
- systemd: ``LISTEN_PID`` and ``LISTEN_FDS`` (``man 3 sd_listen_fds``); only the first counts;
- launchd: a socket named ``gateway`` in the unit's ``Sockets`` (``man 3 launch_activate_socket``).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys

from pomona.errors import AddressInUseError, ConfigurationError, LinkError

LISTEN_FD_VARIABLE = "POMONA_GATEWAY_LISTEN_FD"
LAUNCHD_SOCKET = "gateway"
SYSTEMD_FIRST_FD = 3
BACKLOG = 2048
"""Maximum number of connections that the kernel queues until they are accepted."""
SEND_BUFFER_BYTES = 256 << 10
"""Send buffer of each connection. By default the kernel holds megabytes for a client that does
not read."""


def open_listener(host: str, port: int) -> socket.socket:
    """Returns the inherited listening socket, or binds one to ``host`` and ``port``.

    Raises ConfigurationError when the inherited descriptor is not a listening socket,
    AddressInUseError or LinkError when the address cannot be bound.
    """
    descriptor = _inherited_descriptor()
    listener = _bind(host, port) if descriptor is None else _adopt(descriptor)
    listener.setblocking(False)
    return listener


def _adopt(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
        # asyncio disables Nagle's algorithm only for a socket with an explicit protocol.
        listener = socket.socket(
            listener.family, listener.type, socket.IPPROTO_TCP, fileno=listener.detach()
        )
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.listen(BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"the inherited descriptor {descriptor} ({LISTEN_FD_VARIABLE}, LISTEN_FDS) is not a "
            f"listening TCP socket: {error.strerror}"
        ) from error
    return listener


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(f"{host}:{port}", "POMONA_GATEWAY_PORT") from error
        raise LinkError(
            f"cannot listen on {host}:{port}: {error}; change POMONA_GATEWAY_HOST"
        ) from error
    return listener


def _inherited_descriptor() -> int | None:
    """Returns the inherited descriptor, and hides its variables from child processes."""
    value = os.environ.pop(LISTEN_FD_VARIABLE, "")
    if value:
        if not value.isdecimal():
            raise ConfigurationError(f"{LISTEN_FD_VARIABLE}={value!r} is not a descriptor")
        return int(value)
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    if pid == str(os.getpid()) and count.isdecimal() and int(count) > 0:
        return SYSTEMD_FIRST_FD
    return _launchd_descriptor() if sys.platform == "darwin" else None


def _launchd_descriptor() -> int | None:
    """Takes the socket from launchd; None when this process is not a job with that socket."""
    library = ctypes.CDLL(None)
    descriptors = ctypes.POINTER(ctypes.c_int)()
    count = ctypes.c_size_t(0)
    failed = library.launch_activate_socket(
        LAUNCHD_SOCKET.encode(), ctypes.byref(descriptors), ctypes.byref(count)
    )
    if failed or not count.value:
        return None
    first = int(descriptors[0])
    library.free(descriptors)
    return first
