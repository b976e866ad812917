"""What a discovery service states: its machine, and the links to the other nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from pomona.messages.limits import (
    MAX_ADDRESSES,
    MAX_INTERFACES,
    MAX_NODES,
    MAX_TROUBLES,
    Count,
    Endpoint,
    Name,
    Rate,
    Text,
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a machine is.

    Attributes:
        chip: marketing name of the processor, such as ``Apple M4 Pro``.
        cores: logical cores.
        memory_bytes: all physical memory.
        usable_memory_bytes: what MLX may use of it (Metal's recommended working set on a
            Mac, all but a reserve elsewhere).
        os_name: ``macOS`` or ``Linux``.
        os_version: such as ``26.2``.
    """

    chip: Text
    cores: Count
    memory_bytes: Count
    usable_memory_bytes: Count
    os_name: Text
    os_version: Text


@dataclass(frozen=True, slots=True)
class ThunderboltPort:
    """One Thunderbolt port of a Mac.

    Attributes:
        name: as printed on no case, such as ``Receptacle 1``.
        generation: of the port: 3, 4 or 5; 0 when unknown.
        gbps: speed of what is connected; 0 when nothing is.
        peer: name of the machine or device at the other end; empty when nothing is.
        hops: devices between this machine and the peer; 0 for a cable from Mac to Mac.
    """

    name: Text
    generation: Count = 0
    gbps: Rate = 0.0
    peer: Text = ""
    hops: Count = 0


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface with an address.

    Attributes:
        kind: such as ``thunderbolt``, ``ethernet``, ``wifi``, ``loopback`` or ``other``.
        mbps: nominal speed; 0 when unknown.
    """

    name: Text
    kind: Text
    address: Text
    mbps: Count = 0


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is looked at again from time to time. What cannot be told is empty or 0.

    Attributes:
        model: of the machine, such as ``Mac16,11``.
        wired_limit_bytes: set by the operator; 0 leaves it to the system.
        rdma: of RDMA over Thunderbolt.
        watts, celsius: of the whole package, now.
        disk_free_bytes: where models are kept.
        sleep_minutes: idle time after which the machine sleeps; 0 never, -1 unknown.
        clock_s: Unix time when this was said.
    """

    model: Text = ""
    wired_limit_bytes: Count = 0
    thunderbolt: Annotated[tuple[ThunderboltPort, ...], Field(max_length=32)] = ()
    rdma: Literal["unknown", "unsupported", "disabled", "enabled"] = "unknown"
    rdma_devices: Annotated[tuple[Text, ...], Field(max_length=MAX_INTERFACES)] = ()
    interfaces: Annotated[tuple[Interface, ...], Field(max_length=MAX_INTERFACES)] = ()
    watts: Rate = 0.0
    celsius: Rate = 0.0
    disk_free_bytes: Count = 0
    disk_bytes: Count = 0
    sleep_minutes: Annotated[int, Field(ge=-1, le=10**6)] = -1
    automatic_updates: Literal["unknown", "on", "off"] = "unknown"
    clock_s: Rate = 0.0


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """The way to another node, as measured from here.

    Attributes:
        node: the other one.
        address: of it, the best of those measured.
        kind: of the interface over which it is reached.
        rtt_us, rtt_spread_us: round trip of a small message, median and half the distance
            between the quartiles.
        bytes_per_s, spread_bytes_per_s: one way, of a large message, the same.
        others: addresses that were measured too, and are slower; the quickest of them first.
        dead: addresses that do not answer.
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


@dataclass(frozen=True, slots=True)
class DiscoveryFacts:
    """Attributes:
    peers: peer endpoints of the other nodes' discovery services in use.
    machine: what may change while the service runs.
    links: to the other nodes, measured.
    troubles: what discovery sees that is wrong, in words.
    """

    service: Literal["discovery"] = field(default="discovery", kw_only=True)
    hardware: Hardware
    peers: Annotated[tuple[Endpoint, ...], Field(max_length=MAX_NODES)] = ()
    machine: NodeFacts = NodeFacts()
    links: Annotated[tuple[LinkFacts, ...], Field(max_length=MAX_NODES)] = ()
    troubles: Annotated[tuple[Text, ...], Field(max_length=MAX_TROUBLES)] = ()
