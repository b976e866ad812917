"""Checks of names and reachability, from the troubles that discovery services report."""

from __future__ import annotations

from collections.abc import Iterable

from pomona_ops.doctor.snapshot import Check, Fault, Node, Severity, Snapshot, each


def _reported(*phrases: str, severity: Severity, remedy: str, passed: str) -> Check:
    """Finds reported troubles that contain one of the phrases."""

    def find(node: Node) -> Iterable[Fault]:
        for trouble in node.troubles:
            if any(phrase in trouble for phrase in phrases):
                yield Fault(severity, f"{node.name}: {trouble}", remedy)

    return each(find, passed, "cluster")


def _ports(snapshot: Snapshot) -> Iterable[Fault]:
    for use in () if snapshot.running else snapshot.taken_ports:
        yield Fault(
            "critical",
            f"the port for {use} is in use by another process",
            "end that process (`lsof -nP -iTCP -sTCP:LISTEN` lists it), or choose another --port",
        )


NETWORK_CHECKS = {
    "multicast": _reported(
        "multicast",
        severity="warning",
        remedy="list the other nodes in POMONA_DISCOVERY_PEERS, or allow mDNS (UDP 5353); "
        "on macOS allow Local Network in Privacy & Security",
        passed="multicast DNS works, or is not needed",
    ),
    "local-network": _reported(
        "Local Network",
        severity="critical",
        remedy="allow it in System Settings, Privacy & Security, Local Network, for the program "
        "that started Pomona: Terminal, iTerm, or the terminal in which tmux was started; then "
        "start that program again. A service of launchd needs no permission as a LaunchDaemon",
        passed="macOS lets every node use the local network",
    ),
    "unreachable": _reported(
        "cannot be reached",
        "does not answer",
        severity="critical",
        remedy="open the peer port in the firewall of that node, and check its address",
        passed="every known node answers",
    ),
    "duplicate-node": _reported(
        "two processes are called",
        "bears this node's name",
        severity="critical",
        remedy="give each machine its own POMONA_NODE",
        passed="every machine has its own name",
    ),
    "two-clusters": _reported(
        "another cluster",
        "planners",
        severity="warning",
        remedy="give one of them another POMONA_CLUSTER",
        passed="no other cluster has this name",
    ),
    "ports": Check(_ports, "no other process uses Pomona's ports"),
}
