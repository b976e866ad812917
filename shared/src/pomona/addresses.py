"""Chooses the address at which one node reaches another. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from pomona.messages.discovery import LinkFacts

WILDCARD_HOSTS = frozenset({"0.0.0.0", "*", "::", "[::]"})
"""Hosts that bind a socket to every address of its machine."""

IPC_PREFIX = "ipc://"
"""Scheme of endpoints that only processes of the same machine reach."""


def is_loopback(host: str) -> bool:
    """Tests whether only this machine reaches a host."""
    return host in ("localhost", "::1", "[::1]") or host.startswith("127.")


LinksByNode = Mapping[str, Sequence[LinkFacts]]
"""Measured links to the other nodes, by the node that measured them."""


NODE_MARK = "#"
"""Stands between an endpoint and the name of its node."""


def at_node(endpoint: str, node: str) -> str:
    """Returns an endpoint together with the node whose key must answer there."""
    return f"{endpoint}{NODE_MARK}{node}" if node else endpoint


def split_node(endpoint: str) -> tuple[str, str]:
    """Returns an endpoint and its node, which is empty when none is named."""
    address, _, node = endpoint.partition(NODE_MARK)
    return address, node


def best_address(endpoint: str, node: str, sender: str, links: LinksByNode) -> str:
    """Returns the endpoint at which node ``sender`` reaches a wildcard endpoint of ``node``.

    A dead cable is usually noticed at one end first. An address over a cable that the other
    end reports dead is therefore skipped for the next best one.

    Returns:
        A ``tcp://`` endpoint. Empty when ``endpoint`` is not a wildcard, and so is already the
        address to use, or when ``sender`` has not measured a link to ``node``.
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if host not in WILDCARD_HOSTS:
        return ""
    if sender == node:
        return f"tcp://127.0.0.1:{port}"
    forward = next((link for link in links.get(sender, ()) if link.node == node), None)
    if forward is None or not forward.address:
        return ""
    reverse = next((link for link in links.get(node, ()) if link.node == sender), None)
    usable = [
        address
        for address in (forward.address, *forward.others)
        if reverse is None or not _is_dead_in_reverse(address, reverse)
    ]
    return f"tcp://{usable[0] if usable else forward.address}:{port}"


def _is_dead_in_reverse(address: str, reverse: LinkFacts) -> bool:
    """Tests whether the reverse link over the same cable is dead.

    The cable is identified by network: of the sender's addresses in ``reverse``, it is the
    network of the longest prefix shared with ``address``.
    """
    own = [x for x in (reverse.address, *reverse.others, *reverse.dead) if x]
    return bool(own) and max(own, key=lambda x: _common_prefix_bits(x, address)) in reverse.dead


def _common_prefix_bits(one: str, other: str) -> int:
    try:
        difference = int(ipaddress.IPv4Address(one)) ^ int(ipaddress.IPv4Address(other))
    except ValueError:
        return 0
    return 32 - difference.bit_length()
