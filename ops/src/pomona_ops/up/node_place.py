"""This node's place in its cluster, as its state folder tells it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pomona.errors import PomonaError
from pomona.network_settings import FILE as NETWORK_FILE
from pomona.trust import Trust


@dataclass(frozen=True, slots=True)
class NodePlace:
    """Facts of a node whose change needs a new start of its services.

    Attributes:
        network: time and size of the file with network settings; (0, 0) without one.
        cluster: id of the cluster; empty before the first start.
        key: public key of the node.
        is_head: the cluster's key is here.
        is_member: the node was not revoked.
    """

    network: tuple[int, int]
    cluster: str
    key: str
    is_head: bool
    is_member: bool


def node_place(state_dir: Path) -> NodePlace | None:
    """Reads the place of a node; None while it cannot be read."""
    network = (0, 0)
    try:
        found = (state_dir / NETWORK_FILE).stat()
        network = (found.st_mtime_ns, found.st_size)
    except OSError:
        pass
    try:
        trust = Trust.load(state_dir)
    except PomonaError:
        return None
    if trust is None:
        return NodePlace(network, "", "", True, True)
    return NodePlace(
        network,
        trust.roster.cluster,
        trust.keys.public,
        trust.has_cluster_key,
        trust.member is not None,
    )
