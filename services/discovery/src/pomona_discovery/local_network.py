"""Recognizes that macOS denies this process the local network.

Since macOS 15 a program needs the permission Local Network. Without it, connections to other
machines of the own network fail with EHOSTUNREACH, "No route to host", while those that others
open arrive (Apple's technical note TN3179).
"""

from __future__ import annotations

import errno

from pomona import host
from pomona_discovery.own_addresses import is_in_own_network


def is_denied(error: OSError, address: str) -> bool:
    """Returns True when ``error``, of a connection to ``address``, comes of a denied permission.

    A machine that is off has another error on macOS, EHOSTDOWN.
    """
    return host.is_mac() and error.errno == errno.EHOSTUNREACH and is_in_own_network(address)


def denial(node: str, address: str) -> str:
    """Describes the trouble. ``pomona doctor`` recognizes it by its wording."""
    return f"macOS denies Pomona the Local Network: {node} at {address} is refused"
