"""Checks of names and of who reaches whom: what discovery services say of themselves."""

from __future__ import annotations

from collections.abc import Iterable

from pomona_ops.doctor.snapshot import Check, Fault, Node, Severity, Snapshot, each


def _saying(*words: str, severity: Severity, remedy: str, well: str) -> Check:
    """Finds troubles in which one of the words stands."""

    def found(node: Node) -> Iterable[Fault]:
        for trouble in node.troubles:
            if any(word in trouble for word in words):
                yield Fault(severity, f"{node.name}: {trouble}", remedy)

    return each(found, well, "cluster")


def _ports(sight: Snapshot) -> Iterable[Fault]:
    for use in () if sight.running else sight.taken_ports:
        yield Fault(
            "critical",
            f"the port for {use} is taken by another process",
            "end that process (`lsof -nP -iTCP -sTCP:LISTEN`), or start with --port",
        )


NETWORKS = {
    "multicast": _saying(
        "multicast",
        severity="warning",
        remedy="name the other nodes in POMONA_DISCOVERY_PEERS, or let mDNS (UDP 5353) through; "
        "on macOS allow Local Network in Privacy & Security",
        well="multicast DNS works, or is not needed",
    ),
    "unreachable": _saying(
        "cannot be reached",
        "does not answer",
        severity="critical",
        remedy="open the peer port in the firewall of that node, and check its address",
        well="every node that is known answers",
    ),
    "duplicate-node": _saying(
        "two processes are called",
        "bears this node's name",
        severity="critical",
        remedy="give each machine its own POMONA_NODE",
        well="no two machines have one name",
    ),
    "two-clusters": _saying(
        "another cluster",
        "planners",
        severity="warning",
        remedy="give one of them another POMONA_CLUSTER",
        well="no two clusters have one name",
    ),
    "ports": Check(_ports, "Pomona's ports are free, or Pomona's own"),
}
