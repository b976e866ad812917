"""Checks of Thunderbolt cables, and of the links that discovery measured."""

from __future__ import annotations

from collections.abc import Iterable

from pomona_ops.doctor.snapshot import Check, Fault, Node, Snapshot, each

MIN_THUNDERBOLT_GBPS = 80
MAX_RATE_RATIO = 2.0


def _cable(snapshot: Snapshot) -> Iterable[Fault]:
    generations = {
        port.domain: port.generation
        for node in snapshot.macs
        for port in node.facts.thunderbolt
        if port.domain
    }
    for node in snapshot.macs:
        for port in node.facts.thunderbolt:
            if not port.peer or not port.gbps or port.hops:
                continue
            other = generations.get(port.peer_domain, 0)
            link = f"{node.name}, {port.name}, to {port.peer}: {port.gbps:g} Gb/s"
            if port.generation < 5 or 0 < other < 5:
                yield Fault("info", f"{link}, as Thunderbolt 4 has", "no action needed")
            elif port.gbps < MIN_THUNDERBOLT_GBPS and other >= 5:
                yield Fault(
                    "warning",
                    f"{link} between Thunderbolt 5 ports",
                    "use a cable marked Thunderbolt 5 (80 Gb/s)",
                )
            elif port.gbps < MIN_THUNDERBOLT_GBPS:
                yield Fault(
                    "info",
                    f"{link} on a Thunderbolt 5 port",
                    "if the other Mac has Thunderbolt 5 too, use a cable marked with it",
                )


def _daisy_chain(node: Node) -> Iterable[Fault]:
    for port in node.facts.thunderbolt:
        if port.peer and port.hops:
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
    rates = {
        (node.name, link.node): link.bytes_per_s
        for node in snapshot.nodes
        for link in node.links
        if not link.busy
    }
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
    "thunderbolt-cable": Check(
        _cable, "every Thunderbolt cable is as fast as the ports at its ends", needs="mac"
    ),
    "daisy-chain": each(_daisy_chain, "no Mac is connected through another device", needs="mac"),
    "wifi": each(_wifi, "no link between nodes runs over Wi-Fi", "several"),
    "asymmetry": Check(
        _asymmetry,
        "links are equally fast in both directions, as far as they were idle when measured",
        "several",
    ),
}
