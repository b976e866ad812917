"""Which address of each other node is the best: measured, one after another, gently."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pomona.messages.control import Beacon
from pomona.messages.discovery import DiscoveryFacts, Interface, LinkFacts
from pomona_discovery.link_probe import Measured, best_of, measure

FIRST_PAUSE_S: Final = 1.0
MAX_ADDRESSES: Final = 16


@dataclass(slots=True)
class _Node:
    port: int
    addresses: tuple[str, ...]
    measured: dict[str, Measured] = field(default_factory=dict[str, Measured])
    dead: set[str] = field(default_factory=set[str])
    best: str = ""
    fresh: bool = True
    told_dead: frozenset[str] = frozenset()
    """Addresses of this machine that do not answer there."""


class LinkMonitor:
    """Measures the way to every node that is heard.

    Args:
        interfaces: of this machine, to say over what kind a node is reached.
        pause_s: between two measurements of all.
        changed: called when the best address of a node, or what is dead, has changed.
    """

    def __init__(
        self,
        node: str,
        interfaces: Callable[[], Sequence[Interface]],
        changed: Callable[[], None],
        pause_s: float,
    ) -> None:
        self._pause_s = pause_s
        self._node = node
        self._interfaces = interfaces
        self._changed = changed
        self._nodes: dict[str, _Node] = {}
        self._news = asyncio.Event()

    def on_beacon(self, beacon: Beacon) -> None:
        """Take in where another node's discovery service can be asked. When it tells that an
        address of this machine is dead, the way to it is measured again at once: a cable that
        dies is noticed at one end first."""
        probe = beacon.endpoints.get("probe", "")
        if beacon.node == self._node or not isinstance(beacon.facts, DiscoveryFacts) or not probe:
            return
        host, _, port = probe.removeprefix("tcp://").rpartition(":")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            return
        addresses = addresses_of(host, beacon.facts.machine.interfaces)
        known = self._nodes.get(beacon.node)
        if known is None or (known.port, known.addresses) != (int(port), addresses):
            known = self._nodes[beacon.node] = _Node(int(port), addresses)
            self._news.set()
        told = {x for link in beacon.facts.links if link.node == self._node for x in link.dead}
        if told - known.told_dead:
            known.fresh = True
            self._news.set()
        known.told_dead = frozenset(told)

    def forget(self, node: str) -> None:
        self._nodes.pop(node, None)

    async def run(self) -> None:
        """Measure for ever; new nodes first, then all again after a pause."""
        while True:
            for name, node in list(self._nodes.items()):
                if node.fresh:
                    await self._look_at(name, node)
            self._news.clear()
            if any(node.fresh for node in self._nodes.values()):
                continue
            try:
                async with asyncio.timeout(self._pause_s * random.uniform(0.75, 1.25)):
                    await self._news.wait()
                await asyncio.sleep(FIRST_PAUSE_S * random.random())
            except TimeoutError:
                for node in self._nodes.values():
                    node.fresh = True

    async def _look_at(self, name: str, node: _Node) -> None:
        node.fresh = False
        before = (node.best, frozenset(node.dead))
        for address in node.addresses:
            found = await measure(address, node.port)
            if found is None:
                node.dead.add(address)
                node.measured.pop(address, None)
            else:
                node.dead.discard(address)
                node.measured[address] = found
        best = best_of(list(node.measured.values()), node.best)
        node.best = best.address if best is not None else ""
        if self._nodes.get(name) is node and before != (node.best, frozenset(node.dead)):
            self._changed()

    def facts(self) -> tuple[LinkFacts, ...]:
        return tuple(self._of(name, node) for name, node in sorted(self._nodes.items()))

    def unreachable(self) -> list[str]:
        """Nodes of which no address answers."""
        return sorted(
            name for name, node in self._nodes.items() if not node.fresh and not node.measured
        )

    def _of(self, name: str, node: _Node) -> LinkFacts:
        best = node.measured.get(node.best)
        ranked = sorted(node.measured.values(), key=lambda one: one.typical_s)
        others = tuple(one.address for one in ranked if one.address != node.best)
        dead = tuple(sorted(node.dead))
        if best is None:
            return LinkFacts(name, "", "", 0.0, 0.0, 0.0, 0.0, others, dead)
        return LinkFacts(
            name,
            best.address,
            kind_towards(best.address, self._interfaces()),
            best.rtt_s * 1e6,
            best.rtt_spread_s * 1e6,
            best.bytes_per_s,
            best.spread_bytes_per_s,
            others,
            dead,
        )


def addresses_of(host: str, interfaces: Sequence[Interface]) -> tuple[str, ...]:
    """Where a node may be reached. One that listens on one address has only that."""
    if host not in ("0.0.0.0", "*"):
        return (host,)
    found = dict.fromkeys(i.address for i in interfaces if i.kind != "loopback")
    return tuple(found)[:MAX_ADDRESSES]


def kind_towards(address: str, interfaces: Sequence[Interface]) -> str:
    """Kind of the interface in whose network an address most closely lies."""
    try:
        target = int(ipaddress.IPv4Address(address))
    except ValueError:
        return "other"
    if target >> 24 == 127:
        return "loopback"

    def common(interface: Interface) -> int:
        own = int(ipaddress.IPv4Address(interface.address))
        return 32 - (own ^ target).bit_length()

    usable = [interface for interface in interfaces if interface.kind != "loopback"]
    if not usable:
        return "other"
    return max(usable, key=common).kind
