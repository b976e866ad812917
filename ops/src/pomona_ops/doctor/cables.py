"""Checks of Thunderbolt cables, and of the links that discovery measured."""

from __future__ import annotations

from collections.abc import Iterable

from pomona_ops.doctor.snapshot import Check, Fault, Node, Snapshot, each

MIN_THUNDERBOLT_GBPS = 80
MAX_RATE_RATIO = 2.0


def _cable(node: Node) -> Iterable[Fault]:
    for port in node.facts.thunderbolt:
        if port.gbps and port.generation >= 5 and port.gbps < MIN_THUNDERBOLT_GBPS:
            yield Fault(
                "warning",
                f"{node.name}, {port.name}, to {port.peer}: {port.gbps:g} Gb/s on a "
                "Thunderbolt 5 port",
                "use a cable marked Thunderbolt 5 (80 Gb/s) and a Thunderbolt 5 port at both ends",
            )
        elif port.gbps and 0 < port.generation < 5:
            yield Fault(
                "info",
                f"{node.name}, {port.name}, is Thunderbolt {port.generation}",
                "no action needed, but RDMA needs Thunderbolt 5",
            )


def _daisy_chain(node: Node) -> Iterable[Fault]:
    for port in node.facts.thunderbolt:
        if port.hops:
            yield Fault(
                "warning",
                f"{node.name}, {port.name}: {port.peer} is behind {port.hops} other "
                f"device{'s' if port.hops > 1 else ''}",
                "connect the two Macs with a cable of their own, without dock, hub or another "
                "Mac between them",
            )


def _wifi(node: Node) -> Iterable[Fault]:
    for link in node.links:
        if link.kind == "wifi":
            yield Fault(
                "warning",
                f"{node.name} reaches {link.node} best over Wi-Fi ({link.address})",
                "connect both by Thunderbolt or Ethernet; if they are, see `pomona status` for "
                "addresses that do not answer",
            )


def _asymmetry(snapshot: Snapshot) -> Iterable[Fault]:
    rates = {(n.name, x.node): x.bytes_per_s for n in snapshot.nodes for x in n.links}
    for (a, b), rate in sorted(rates.items()):
        back = rates.get((b, a), 0.0)
        if rate > 0 and back > MAX_RATE_RATIO * rate:
            yield Fault(
                "warning",
                f"{a} to {b} carries {rate / 1e6:.0f} MB/s, {b} to {a} {back / 1e6:.0f} MB/s",
                "look for different paths: a second cable, a route over Wi-Fi, a switch port at "
                "half duplex",
            )


CABLE_CHECKS = {
    "thunderbolt-cable": each(
        _cable, "every Thunderbolt 5 port in use runs at full speed", needs="mac"
    ),
    "daisy-chain": each(_daisy_chain, "no Mac is connected through another device", needs="mac"),
    "wifi": each(_wifi, "no link between nodes runs over Wi-Fi", "several"),
    "asymmetry": Check(_asymmetry, "links are equally fast in both directions", "several"),
}
