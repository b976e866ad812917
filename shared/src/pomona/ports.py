"""Ports of the services, outside the range from which systems take those of clients' connections.

Linux gives clients ports from 32768 up, macOS from 49152. A client's connection can hold such a
port, even for a minute after its end, when a service wants to bind it.
"""

from __future__ import annotations

import errno
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

SERVICE_PORTS: Final = range(1024, 28768)
"""Ports with fixed numbers."""
FREE_PORTS: Final = range(28768, 32768)
"""Ports for callers that ask for a free one."""
BLOCK: Final = 77
"""Ports that a cluster may use on one machine: 13 and those of 64 stage workers."""
SHIFT: Final = 30000
"""Distance from the gateway's default port to the ports of the other services."""
TIME_WAIT_S: Final = 65.0
"""Longest time for which a closed connection keeps its port, with a margin."""
RETRY_S: Final = 0.25

Bound = TypeVar("Bound")


def services_base(first: int) -> int:
    """Returns the port below those of the services besides the gateway.

    Args:
        first: port of the gateway, which may be in the range of clients.
    """
    if first + BLOCK <= SERVICE_PORTS.stop:
        return first
    offset = first - SHIFT - SERVICE_PORTS.start
    return SERVICE_PORTS.start + offset % (len(SERVICE_PORTS) - BLOCK)


def bind_free_port(bind: Callable[[int], Bound]) -> Bound:
    """Returns the result of ``bind`` for a free port.

    Args:
        bind: binds a port, or raises OSError with EADDRINUSE. It is given 0 at last.
    """
    for port in random.sample(FREE_PORTS, 64):
        try:
            return bind(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return bind(0)


def attempts(host: str, port: int, deadline_s: float = TIME_WAIT_S) -> Iterator[None]:
    """Yields for each attempt to bind a port, until it makes no sense to wait longer.

    A port with a listener stays taken. One that a connection holds is free again soon.
    """
    ends_at = time.monotonic() + deadline_s
    yield
    while time.monotonic() < ends_at and not _is_listening(host, port):
        time.sleep(RETRY_S)
        yield


def _is_listening(host: str, port: int) -> bool:
    target = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host)
    try:
        with socket.create_connection((target.strip("[]"), port), timeout=1.0):
            return True
    except TimeoutError:
        return True
    except OSError:
        return False
