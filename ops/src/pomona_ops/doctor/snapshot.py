"""The data that checks read, and the types of a check and its faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pomona.messages.control import Beacon, Pipeline, PlannerFacts, StageWorkerFacts
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
    """A machine.

    Attributes:
        pomona: its version of Pomona.
        mlx: its version of MLX; empty without a stage worker.
        observed_at: Unix time on this machine when its facts arrived.
        share_bytes: weights of the stages that its workers hold or load.
        wirable_bytes: weights that its workers may wire; 0 when they wire none.
    """

    name: str
    hardware: Hardware
    facts: NodeFacts
    pomona: str
    mlx: str = ""
    observed_at: float = 0.0
    links: tuple[LinkFacts, ...] = ()
    troubles: tuple[str, ...] = ()
    share_bytes: int = 0
    wirable_bytes: int = 0

    @property
    def is_mac(self) -> bool:
        return self.hardware.os_name == "macOS"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is checked.

    Attributes:
        taken_ports: uses of the ports on this machine that another process has.
        running: the nodes are those of a running cluster; otherwise this machine alone.
        pipelines: those of the planners.
        has_planner: a planner of the running cluster is heard.
    """

    nodes: tuple[Node, ...]
    taken_ports: tuple[str, ...] = ()
    running: bool = False
    pipelines: tuple[Pipeline, ...] = ()
    has_planner: bool = True

    @property
    def macs(self) -> list[Node]:
        return [node for node in self.nodes if node.is_mac]

    def missing(self, need: Need) -> str:
        """Returns why a check with this need does not apply; empty when it does."""
        if need == "mac" and not self.macs:
            return "no node is a Mac"
        if need in ("cluster", "several") and not self.running:
            return "no cluster runs"
        return "there is no other node" if need == "several" and len(self.nodes) < 2 else ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong, and what to do about it."""

    severity: Severity
    description: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Check:
    """Attributes:
    find: yields the faults of all nodes.
    passed: message when there are none.
    needs: what the check applies to: any node, a Mac, a running cluster, or several nodes.
    """

    find: Callable[[Snapshot], Iterable[Fault]]
    passed: str
    needs: Need = "node"


def each(find: Callable[[Node], Iterable[Fault]], passed: str, needs: Need = "node") -> Check:
    """Makes a check of a function that looks at one node at a time."""

    def find_in_all(snapshot: Snapshot) -> Iterable[Fault]:
        return (fault for node in snapshot.nodes for fault in find(node))

    return Check(find_in_all, passed, needs)


def unreadable(subject: str, node: Node, remedy: str) -> Fault:
    """Reports a fact that a node could not read: it may be well or not."""
    return Fault("info", f"{subject} could not be read on {node.name}", remedy)


def nodes_of(beacons: Sequence[Beacon], observed_at: float) -> tuple[Node, ...]:
    """Collects the nodes of a cluster from its beacons."""
    mlx = {
        beacon.node: beacon.facts.mlx_version
        for beacon in beacons
        if isinstance(beacon.facts, StageWorkerFacts)
    }
    shares: Counter[str] = Counter()
    wirable: dict[str, int] = {}
    for beacon in beacons:
        if isinstance(beacon.facts, StageWorkerFacts):
            stages = beacon.facts.stages
            shares[beacon.node] += sum(max(x.total_bytes, x.loaded_bytes) for x in stages)
            allowed = beacon.facts.wirable_bytes
            wirable[beacon.node] = max(wirable.get(beacon.node, 0), allowed)
    return tuple(
        Node(
            beacon.node,
            beacon.facts.hardware,
            beacon.facts.machine,
            beacon.version,
            mlx.get(beacon.node, ""),
            observed_at,
            beacon.facts.links,
            beacon.facts.troubles,
            shares[beacon.node],
            wirable.get(beacon.node, 0),
        )
        for beacon in beacons
        if isinstance(beacon.facts, DiscoveryFacts)
    )


def pipelines_of(beacons: Sequence[Beacon]) -> tuple[Pipeline, ...]:
    """Returns the pipelines of all planners."""
    return tuple(
        pipeline
        for beacon in beacons
        if isinstance(beacon.facts, PlannerFacts)
        for pipeline in beacon.facts.pipelines
    )


def differing(values: dict[str, str]) -> str:
    """Lists the values, as in ``a 26.1, b 26.2``; empty when all are equal."""
    if len(set(values.values())) < 2:
        return ""
    return ", ".join(f"{name} {value}" for name, value in values.items())
