"""What the doctor looks at, and what a check finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pomona.messages.control import Beacon, StageWorkerFacts
from pomona.messages.discovery import (
    DiscoveryFacts,
    Hardware,
    LinkFacts,
    NodeFacts,
)

Severity = Literal["ok", "info", "warning", "critical"]
Need = Literal["node", "mac", "cluster", "several"]


@dataclass(frozen=True, slots=True)
class Node:
    """A machine as it is known.

    Attributes:
        pomona: version of Pomona there.
        mlx: version of MLX there; empty when no stage worker was heard.
        received_at: Unix time when its clock was read.
    """

    name: str
    hardware: Hardware
    facts: NodeFacts
    pomona: str
    mlx: str = ""
    received_at: float = 0.0
    links: tuple[LinkFacts, ...] = ()
    troubles: tuple[str, ...] = ()

    @property
    def is_mac(self) -> bool:
        return self.hardware.os_name == "macOS"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is checked.

    Attributes:
        taken_ports: ports of Pomona on this machine that somebody else uses, by use.
        running: whether a cluster was heard.
    """

    nodes: tuple[Node, ...]
    taken_ports: tuple[str, ...] = ()
    running: bool = False

    @property
    def macs(self) -> list[Node]:
        return [node for node in self.nodes if node.is_mac]

    def lacks(self, need: Need) -> str:
        """Why there is nothing to look at; empty when there is."""
        if need == "mac" and not self.macs:
            return "no node is a Mac"
        if need in ("cluster", "several") and not self.running:
            return "no cluster runs"
        return "there is no other node" if need == "several" and len(self.nodes) < 2 else ""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and what to do about it."""

    severity: Severity
    said: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Check:
    """Attributes:
    find: the faults, of all nodes together.
    well: what is said when there are none.
    needs: what must be there for anything to be looked at: a node, a Mac, a cluster that runs,
        or several nodes.
    """

    find: Callable[[Snapshot], Iterable[Fault]]
    well: str
    needs: Need = "node"


def each(find: Callable[[Node], Iterable[Fault]], well: str, needs: Need = "node") -> Check:
    """A check that looks at one node at a time."""
    return Check(lambda sight: (fault for node in sight.nodes for fault in find(node)), well, needs)


def unknown(what: str, node: Node, look: str) -> Fault:
    """What a node could not tell is not well, and need not be wrong."""
    return Fault("info", f"{what} could not be read on {node.name}", look)


def nodes_of(beacons: Sequence[Beacon], received_at: float) -> tuple[Node, ...]:
    """The nodes that a cluster's beacons tell of."""
    mlx = {
        beacon.node: beacon.facts.mlx_version
        for beacon in beacons
        if isinstance(beacon.facts, StageWorkerFacts)
    }
    return tuple(
        Node(
            beacon.node,
            beacon.facts.hardware,
            beacon.facts.machine,
            beacon.version,
            mlx.get(beacon.node, ""),
            received_at,
            beacon.facts.links,
            beacon.facts.troubles,
        )
        for beacon in beacons
        if isinstance(beacon.facts, DiscoveryFacts)
    )


def differing(values: dict[str, str]) -> str:
    """``a 26.1, b 26.2`` when not all are the same; empty when they are."""
    if len(set(values.values())) < 2:
        return ""
    return ", ".join(f"{name} {value}" for name, value in values.items())
