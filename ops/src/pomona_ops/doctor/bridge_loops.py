"""Check for loops of Thunderbolt cables between Macs that bridge their ports.

macOS joins all Thunderbolt ports in one bridge, bridge0. Macs that bridge and whose cables form a
loop forward every broadcast for ever, which takes all their networks down.
"""

from __future__ import annotations

from collections.abc import Iterable

from pomona_ops.doctor.snapshot import Check, Fault, Node, Snapshot

REMEDY = (
    "unplug one cable, or run on each of them `sudo ifconfig bridge0 down` and `sudo networksetup "
    '-setnetworkserviceenabled "Thunderbolt Bridge" off`; the ports keep their own addresses'
)


def _bridges(node: Node) -> bool:
    return len(node.facts.bridge_members) > 1


def _loops(snapshot: Snapshot) -> Iterable[Fault]:
    bridging = {node.name: node for node in snapshot.macs if _bridges(node)}
    owners = {
        port.domain: name
        for name, node in bridging.items()
        for port in node.facts.thunderbolt
        if port.domain
    }
    cables = {
        frozenset((port.domain, port.peer_domain))
        for node in bridging.values()
        for port in node.facts.thunderbolt
        if port.domain in owners and port.peer_domain in owners
    }
    edges = [tuple(owners[domain] for domain in cable) for cable in cables if len(cable) == 2]
    for names in _in_loops([(edge[0], edge[1]) for edge in edges]):
        yield Fault(
            "critical",
            f"the Thunderbolt cables of {', '.join(names)} form a loop while the Thunderbolt "
            "Bridge is on: broadcasts circulate without end",
            REMEDY,
        )
    for node in bridging.values():
        unknown = {
            port.peer_domain
            for port in node.facts.thunderbolt
            if port.peer_domain and port.peer_domain not in owners
        }
        if len(unknown) > 1 and not snapshot.running:
            yield Fault(
                "warning",
                f"{node.name} has cables to Macs on {len(unknown)} ports while its Thunderbolt "
                "Bridge is on: a cable between those Macs, or both to one Mac, makes a loop",
                REMEDY,
            )


def _in_loops(edges: list[tuple[str, str]]) -> list[list[str]]:
    """Returns the machines of each loop: what remains when ends of chains are taken away."""
    left = [edge for edge in edges if edge[0] != edge[1]]
    while True:
        degree: dict[str, int] = {}
        for name in (name for edge in left for name in edge):
            degree[name] = degree.get(name, 0) + 1
        kept = [edge for edge in left if degree[edge[0]] > 1 and degree[edge[1]] > 1]
        if len(kept) == len(left):
            break
        left = kept
    groups: list[set[str]] = []
    for edge in left:
        joined = set(edge).union(*(group for group in groups if group & set(edge)))
        groups = [group for group in groups if not group & joined] + [joined]
    return sorted(sorted(group) for group in groups)


BRIDGE_CHECKS = {
    "bridge-loop": Check(_loops, "no loop of Thunderbolt cables is bridged", needs="mac"),
}
