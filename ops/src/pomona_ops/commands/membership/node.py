"""This node: its settings, its keys and its roster, as the commands see them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pomona.addresses import WILDCARD_HOSTS
from pomona.errors import ConfigurationError
from pomona.messages.control import Beacon
from pomona.messages.discovery import DiscoveryFacts
from pomona.network_settings import read_network, write_network
from pomona.settings import read_settings
from pomona.trust import Member, Trust
from pomona_discovery.own_addresses import current_interfaces
from pomona_discovery.settings import DiscoverySettings
from pomona_ops.cluster.beacons import collect_beacons
from pomona_ops.cluster.started import Target

ANY = "0.0.0.0"


def discovery_settings(target: Target) -> DiscoverySettings:
    """Returns the settings of this node's discovery service. Raises ConfigurationError."""
    return read_settings(DiscoverySettings, state_dir=target.state_dir)


def open_trust(target: Target) -> Trust:
    """Returns the keys and roster of this node. Raises ConfigurationError without any."""
    trust = Trust.load(target.state_dir)
    if trust is None:
        raise ConfigurationError(
            f"no cluster has been started with {target.state_dir}: start one with `pomona up`, or "
            "pass its port with --port"
        )
    return trust


def head_trust(target: Target, command: str) -> Trust:
    """Returns the trust of this node, which must have the cluster's key.

    Raises ConfigurationError that names the heads otherwise.
    """
    trust = open_trust(target)
    if not trust.has_cluster_key:
        heads = ", ".join(x.name for x in trust.roster.members if x.role == "head")
        raise ConfigurationError(
            f"run `{command}` on {heads or 'the head'}, which has the cluster's key; if it is "
            "lost, `pomona cluster import` makes this machine the head"
        )
    return trust


def member_named(trust: Trust, name: str) -> Member:
    """Returns a member by name or id. Raises ConfigurationError that lists the names."""
    found = trust.roster.by_name(name) or trust.roster.by_id(name)
    if found is None:
        names = ", ".join(x.name for x in trust.roster.members)
        raise ConfigurationError(f"{name} is not a member; members: {names}")
    return found


def beacons_of(target: Target) -> list[Beacon]:
    """Returns the newest beacons of the running cluster; none when it does not run."""
    return asyncio.run(collect_beacons(target.endpoint, target.cluster))


def own_discovery(beacons: list[Beacon], node: str) -> Beacon | None:
    """Returns the beacon of this node's discovery service."""
    return next(
        (x for x in beacons if x.node == node and isinstance(x.facts, DiscoveryFacts)), None
    )


def head_door(target: Target, trust: Trust) -> tuple[tuple[str, int], str]:
    """Returns the address of the head's doorstep, and the head's public key.

    It is the address at which this node joined, or one that the head announces now. Raises
    ConfigurationError when neither is known.
    """
    heads = {x.name: x for x in trust.roster.members if x.role == "head"}
    for beacon in beacons_of(target):
        door = beacon.endpoints.get("door", "")
        peer = beacon.endpoints.get("peer", "").removeprefix("tcp://").rpartition(":")[0]
        if door and beacon.node in heads and not is_any(peer):
            return (peer, int(door.rpartition(":")[2])), heads[beacon.node].key
    known = read_network(target.state_dir).get("head", {})
    host, _, port = str(known.get("door", "")).rpartition(":")
    head = heads.get(str(known.get("name", "")))
    if not host or head is None:
        raise ConfigurationError("the head of the cluster is not heard; start it, and try again")
    return (host, int(port)), head.key


def outside_addresses() -> list[str]:
    """Returns the addresses of this machine for others; those of virtual networks come last."""
    found = [x for x in current_interfaces() if x.kind != "loopback"]
    return [x.address for x in sorted(found, key=lambda x: x.kind == "other")]


def is_any(host: str) -> bool:
    """Tests whether a host stands for every address of its machine."""
    return host in WILDCARD_HOSTS


def keep_network(
    state_dir: Path,
    common: dict[str, Any],
    discovery: dict[str, Any],
    head: dict[str, Any] | None = None,
) -> None:
    """Adds settings to those that the node's state folder keeps. Raises ConfigurationError.

    Args:
        head: name and ``door`` (``host:port``) of the head that this node has joined.
    """
    content = read_network(state_dir)
    sections = {name: table for name, table in content.items() if isinstance(table, dict)}
    kept = {name: value for name, value in content.items() if name not in sections}
    sections["discovery"] = {**sections.get("discovery", {}), **discovery}
    if head is not None:
        sections["head"] = head
    write_network(state_dir, {**kept, **common}, sections)
