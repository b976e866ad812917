"""Where a service that listens on every address is reached: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pomona.messages.control import LinkFacts

WILDCARDS = frozenset({"0.0.0.0", "*", "::", "[::]"})
"""Hosts by which a socket listens on every address of its machine."""

Links = Mapping[str, Sequence[LinkFacts]]
"""By node, the ways to the others as measured from there."""


def measured_way(endpoint: str, node: str, sender: str, links: Links) -> str:
    """Where ``sender``, a node, reaches an endpoint of ``node`` that is on every address.

    Empty when it is on one address only, which is then the way, or no way was measured yet.
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if host not in WILDCARDS:
        return ""
    if sender == node:
        return f"tcp://127.0.0.1:{port}"
    known = (link.address for link in links.get(sender, ()) if link.node == node)
    address = next(known, "")
    return f"tcp://{address}:{port}" if address else ""
