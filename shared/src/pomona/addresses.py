"""Where a service that listens on every address is reached: pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from pomona.messages.discovery import LinkFacts

WILDCARD_HOSTS = frozenset({"0.0.0.0", "*", "::", "[::]"})
"""Hosts by which a socket listens on every address of its machine."""

IPC_PREFIX = "ipc://"
"""Begins endpoints that only processes of the same machine reach."""

LinksByNode = Mapping[str, Sequence[LinkFacts]]
"""By node, the ways to the others as measured from there."""


def best_address(endpoint: str, node: str, sender: str, links: LinksByNode) -> str:
    """Where ``sender``, a node, reaches an endpoint of ``node`` that is on every address.

    Empty when it is on one address only, which is then the way, or no way was measured yet.
    A cable that dies is noticed at one end first: an address that lies on a cable which the
    other end found dead gives way to the next best one.
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if host not in WILDCARD_HOSTS:
        return ""
    if sender == node:
        return f"tcp://127.0.0.1:{port}"
    there = next((link for link in links.get(sender, ()) if link.node == node), None)
    if there is None or not there.address:
        return ""
    back = next((link for link in links.get(node, ()) if link.node == sender), None)
    usable = [x for x in (there.address, *there.others) if back is None or not _in_doubt(x, back)]
    return f"tcp://{usable[0] if usable else there.address}:{port}"


def _in_doubt(address: str, back: LinkFacts) -> bool:
    """Whether the way back, over what is likely the same cable, is dead. Then the way there is
    dead too, most likely, and only was not measured again yet.

    The same cable: of all the sender's addresses, as ``back`` tells them, the one in the
    network that is nearest to ``address``.
    """
    own = [x for x in (back.address, *back.others, *back.dead) if x]
    return bool(own) and max(own, key=lambda x: _common_bits(x, address)) in back.dead


def _common_bits(one: str, other: str) -> int:
    try:
        apart = int(ipaddress.IPv4Address(one)) ^ int(ipaddress.IPv4Address(other))
    except ValueError:
        return 0
    return 32 - apart.bit_length()
