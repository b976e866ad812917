"""Facts in the beacon of a discovery service: its machine, and its links to other nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from pomona.messages.limits import (
    MAX_ADDRESSES,
    MAX_INTERFACES,
    MAX_NODES,
    MAX_ROSTER_BYTES,
    MAX_THUNDERBOLT_PORTS,
    MAX_TROUBLES,
    Count,
    Endpoint,
    Name,
    Rate,
    Text,
)

Switch = Literal["unknown", "on", "off"]
"""State of a setting of the operating system."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Fixed properties of a machine.

    Attributes:
        chip: marketing name of the processor, for example ``Apple M4 Pro``.
        cores: logical cores.
        memory_bytes: physical memory.
        usable_memory_bytes: the part available to MLX: Metal's recommended working set on a
            Mac, all but a reserve elsewhere.
        os_name: ``macOS`` or ``Linux``.
        os_version: for example ``26.2``.
    """

    chip: Text
    cores: Count
    memory_bytes: Count
    usable_memory_bytes: Count
    os_name: Text
    os_version: Text


@dataclass(frozen=True, slots=True)
class ThunderboltPort:
    """One Thunderbolt port of a Mac, and one computer behind it.

    Attributes:
        name: label of the port, for example ``port 1``.
        generation: Thunderbolt version of the machine: 3, 4 or 5; 0 when unknown.
        gbps: speed of the connection; 0 when nothing is connected.
        peer: model of the computer behind the port, for example ``Mac16,9``; empty without one.
        hops: devices between this machine and the peer; 0 for a cable from Mac to Mac.
        device: dock, hub or disk that is connected directly; empty without one.
        domain: UUID of the port's Thunderbolt domain; empty when unknown.
        peer_domain: UUID of the domain of the peer's port, by which its node is recognized.
    """

    name: Text
    generation: Count = 0
    gbps: Rate = 0.0
    peer: Text = ""
    hops: Count = 0
    device: Text = ""
    domain: Text = ""
    peer_domain: Text = ""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface and one of its addresses.

    Attributes:
        kind: ``thunderbolt``, ``ethernet``, ``wifi``, ``loopback`` or ``other``.
        mbps: nominal speed in Mbit/s; 0 when unknown.
    """

    name: Text
    kind: Text
    address: Text
    mbps: Count = 0


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Properties of a machine that may change, refreshed every minute. Unknown is empty or 0.

    Attributes:
        model: machine model, for example ``Mac16,11``.
        product: kind of Mac, for example ``MacBook Pro``.
        wired_limit_bytes: limit of wired memory set by the operator; 0 for the system's default.
        rdma: state of RDMA over Thunderbolt.
        watts, celsius: power and temperature of the whole package.
        disk_free_bytes, disk_bytes: free space and size of the disk with the state folder.
        sleep_minutes: idle time after which the machine sleeps; 0 never, -1 unknown.
        clock_s: Unix time of this machine when the beacon was made.
        bridge_members: interfaces between which the Thunderbolt Bridge forwards.
        restarts_after_power_failure: pmset's ``autorestart``.
        file_vault: whether the disk is encrypted, so that nothing starts before a login.
        firewall: the application firewall.
    """

    model: Text = ""
    wired_limit_bytes: Count = 0
    thunderbolt: Annotated[
        tuple[ThunderboltPort, ...], Field(max_length=MAX_THUNDERBOLT_PORTS)
    ] = ()
    rdma: Literal["unknown", "unsupported", "disabled", "enabled"] = "unknown"
    rdma_devices: Annotated[tuple[Text, ...], Field(max_length=MAX_INTERFACES)] = ()
    interfaces: Annotated[tuple[Interface, ...], Field(max_length=MAX_INTERFACES)] = ()
    watts: Rate = 0.0
    celsius: Rate = 0.0
    disk_free_bytes: Count = 0
    disk_bytes: Count = 0
    sleep_minutes: Annotated[int, Field(ge=-1, le=10**6)] = -1
    automatic_updates: Switch = "unknown"
    clock_s: Rate = 0.0
    product: Text = ""
    bridge_members: Annotated[tuple[Text, ...], Field(max_length=MAX_INTERFACES)] = ()
    restarts_after_power_failure: Switch = "unknown"
    file_vault: Switch = "unknown"
    firewall: Switch = "unknown"


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """Measured link to another node.

    Attributes:
        node: name of the other node.
        address: its best address; empty when none answers.
        kind: kind of this node's interface to that address.
        rtt_us, rtt_spread_us: round trip of a small message, median and half the interquartile
            range, microseconds.
        bytes_per_s, spread_bytes_per_s: one-way throughput of a large message, the same.
        others: slower addresses that answer, fastest first.
        dead: addresses that do not answer.
        own: this node's address on the same cable or network; empty when unknown.
        busy: requests ran on one of the two nodes during the measurement, which may be too low.
    """

    node: Name
    address: Text
    kind: Text
    rtt_us: Rate
    rtt_spread_us: Rate
    bytes_per_s: Rate
    spread_bytes_per_s: Rate
    others: Annotated[tuple[Text, ...], Field(max_length=MAX_ADDRESSES)] = ()
    dead: Annotated[tuple[Text, ...], Field(max_length=MAX_ADDRESSES)] = ()
    own: Text = ""
    busy: bool = False


@dataclass(frozen=True, slots=True)
class DiscoveryFacts:
    """Attributes:
    peers: peer endpoints of discovery services whose beacons arrive.
    machine: properties that may change while the service runs.
    links: measured links to the other nodes.
    troubles: problems found by discovery, as sentences.
    roster: the signed roster of the cluster, as JSON (:mod:`pomona.trust.roster`).
    """

    service: Literal["discovery"] = field(default="discovery", kw_only=True)
    hardware: Hardware
    peers: Annotated[tuple[Endpoint, ...], Field(max_length=MAX_NODES)] = ()
    machine: NodeFacts = NodeFacts()
    links: Annotated[tuple[LinkFacts, ...], Field(max_length=MAX_NODES)] = ()
    troubles: Annotated[tuple[Text, ...], Field(max_length=MAX_TROUBLES)] = ()
    roster: Annotated[str, Field(max_length=MAX_ROSTER_BYTES)] = ""
