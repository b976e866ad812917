"""Finds the best address of each other node by repeated measurement."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pomona.messages.control import Beacon
from pomona.messages.discovery import DiscoveryFacts, Interface, LinkFacts
from pomona_discovery.link_probe import LinkMeasurement, choose_best, measure
from pomona_discovery.local_network import is_denied
from pomona_discovery.own_addresses import addresses_of, kind_towards

MIN_INTERVAL_S: Final = 1.0
"""Time between two measurements of one node that its own beacons ask for."""
MAX_START_DELAY_S: Final = 1.0
"""Random delay before a measurement that a beacon triggers, so that nodes do not probe at once."""


@dataclass(slots=True)
class _Target:
    """Another node and its measurements.

    Attributes:
        boot: boot id of its discovery service, with which its addresses must answer.
        busy: whether requests ran here or there during the last measurement.
        denied: address to which macOS denies connections; empty without one.
        due: whether it is to be measured now.
        reported_dead: addresses of this machine that do not answer the other node.
        chosen: address of the other node that it chose for both ends; empty while it has not, or
            when this node chooses.
    """

    port: int
    addresses: tuple[str, ...]
    boot: str
    busy: bool = False
    denied: str = ""
    measured: dict[str, LinkMeasurement] = field(default_factory=dict[str, LinkMeasurement])
    dead: set[str] = field(default_factory=set[str])
    best: str = ""
    due: bool = True
    reported_dead: frozenset[str] = frozenset()
    chosen: str = ""

    def choose(self) -> None:
        """Sets the best address: the one that the other end chose, if it answers; else the
        fastest."""
        best = choose_best(list(self.measured.values()), self.best)
        if self.chosen in self.measured:
            best = self.measured[self.chosen]
        self.best = best.address if best is not None else ""


class LinkMonitor:
    """Measures the links to all nodes whose beacons arrive, and chooses one pair of addresses for
    each two nodes.

    Args:
        node: name of this node.
        interfaces: returns the interfaces of this machine.
        on_change: called when a node's best address or its dead addresses change.
        interval_s: time between two measurements of all links.
        is_busy: tells whether requests run on a node.
    """

    def __init__(
        self,
        node: str,
        interfaces: Callable[[], Sequence[Interface]],
        on_change: Callable[[], None],
        interval_s: float,
        is_busy: Callable[[str], bool] = lambda node: False,
    ) -> None:
        self._interval_s = interval_s
        self._is_busy = is_busy
        self._node = node
        self._interfaces = interfaces
        self._on_change = on_change
        self._targets: dict[str, _Target] = {}
        self._measured_at: dict[str, float] = {}
        self._due = asyncio.Event()

    def on_beacon(self, beacon: Beacon) -> None:
        """Records another node's addresses.

        When it reports an address of this machine as dead, the link is measured again at once: a
        dead cable is usually noticed at one end first.
        """
        probe = beacon.endpoints.get("probe", "")
        if beacon.node == self._node or not isinstance(beacon.facts, DiscoveryFacts) or not probe:
            return
        host, _, port = probe.removeprefix("tcp://").rpartition(":")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            return
        addresses = self._foreign(addresses_of(host, beacon.facts.machine.interfaces))
        target = self._targets.get(beacon.node)
        found = (int(port), addresses, beacon.boot)
        if target is None or (target.port, target.addresses, target.boot) != found:
            target = self._targets[beacon.node] = _Target(*found)
            self._due.set()
        dead = {x for link in beacon.facts.links if link.node == self._node for x in link.dead}
        if dead - target.reported_dead:
            target.due = True
            self._due.set()
        target.reported_dead = frozenset(dead)
        if beacon.node < self._node:
            self._adopt(target, beacon.facts.links)

    def _adopt(self, target: _Target, links: Sequence[LinkFacts]) -> None:
        """Takes the pair of addresses that the other node chose for the cable between both.

        Of two nodes the one whose name comes first chooses, so that both ends use one cable.
        """
        target.chosen = next((x.own for x in links if x.node == self._node and x.address), "")
        before = target.best
        target.choose()
        if target.best != before:
            self._on_change()

    def _foreign(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the addresses that this machine does not have, or all if it has every one."""
        own = {x.address for x in self._interfaces() if x.kind != "loopback"}
        return tuple(x for x in addresses if x not in own) or addresses

    def addresses(self, node: str) -> tuple[str, ...]:
        """Returns the addresses of a node that are measured; none when it is unknown."""
        target = self._targets.get(node)
        return target.addresses if target is not None else ()

    def denied(self) -> list[tuple[str, str]]:
        """Returns nodes and the address at which macOS denies connections to them."""
        return sorted((name, x.denied) for name, x in self._targets.items() if x.denied)

    def record(self, node: str, measurements: Sequence[LinkMeasurement]) -> None:
        """Records measurements of a known node, and chooses its address."""
        target = self._targets[node]
        target.measured |= {measurement.address: measurement for measurement in measurements}
        target.choose()

    def remove(self, node: str) -> None:
        self._targets.pop(node, None)

    async def run(self) -> None:
        """Measures until cancelled: due nodes first, then all after the interval."""
        while True:
            for name, target in list(self._targets.items()):
                if target.due and self._may_measure(name):
                    await self._measure(name, target)
            self._due.clear()
            if any(target.due for target in self._targets.values()):
                await asyncio.sleep(MIN_INTERVAL_S / 8)
                continue
            try:
                async with asyncio.timeout(self._interval_s * random.uniform(0.75, 1.25)):
                    await self._due.wait()
                await asyncio.sleep(MAX_START_DELAY_S * random.random())
            except TimeoutError:
                for target in self._targets.values():
                    target.due = True

    def _may_measure(self, name: str) -> bool:
        """Spaces the measurements of a node whose beacons ask for many."""
        now = time.monotonic()
        if now - self._measured_at.get(name, -MIN_INTERVAL_S) < MIN_INTERVAL_S:
            return False
        self._measured_at[name] = now
        return True

    async def _measure(self, name: str, target: _Target) -> None:
        target.due = False
        before = (target.best, frozenset(target.dead))
        target.denied = ""
        busy = self._are_busy(name)
        for address in target.addresses:

            def on_error(error: OSError, address: str = address) -> None:
                if is_denied(error, address):
                    target.denied = address

            measurement = await measure(address, target.port, target.boot, on_error, node=name)
            if measurement is None:
                target.dead.add(address)
                target.measured.pop(address, None)
            else:
                target.dead.discard(address)
                target.measured[address] = measurement
        target.busy = busy or self._are_busy(name)
        target.choose()
        changed = before != (target.best, frozenset(target.dead))
        if changed and self._targets.get(name) is target:
            self._on_change()

    def _are_busy(self, name: str) -> bool:
        return self._is_busy(name) or self._is_busy(self._node)

    def facts(self) -> tuple[LinkFacts, ...]:
        return tuple(
            self._link_facts(name, target) for name, target in sorted(self._targets.items())
        )

    def unreachable(self) -> list[str]:
        """Returns measured nodes without an address that answers."""
        return sorted(
            name
            for name, target in self._targets.items()
            if not target.due and not target.measured and not target.denied
        )

    def _link_facts(self, name: str, target: _Target) -> LinkFacts:
        best = target.measured.get(target.best)
        ranked = sorted(target.measured.values(), key=lambda x: x.typical_s)
        others = tuple(x.address for x in ranked if x.address != target.best)
        dead = tuple(sorted(target.dead))
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
            best.own,
            busy=target.busy,
        )
