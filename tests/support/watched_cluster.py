"""A cluster in simulated time, as the rules of a health watcher see it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pomona.leases import LeaseTable
from pomona.messages.control import Beacon, ServiceName
from pomona_health_watcher.conditions import AlertThresholds, Condition
from pomona_health_watcher.loss_rules import KnownService
from pomona_health_watcher.rules import HealthRules
from support.beacons import beacon_of

STEP_S = 0.25
SERVICES: tuple[ServiceName, ...] = ("discovery", "planner", "gateway", "stage_worker")


class WatchedCluster:
    """Services that send a beacon a second, and a health watcher on node ``mac``.

    ``mac`` runs one of each service; ``other`` a discovery service and a stage worker.

    Attributes:
        running: the services that run, by name, with the beacon that each sends.
        muted: names of running services whose beacons get lost.
    """

    def __init__(self, known: Iterable[KnownService] = (), others: bool = True) -> None:
        self.now = 100.0
        self.rules = HealthRules(
            "mac.health_watcher", "own", "mac", AlertThresholds(), self.now, known
        )
        self.leases = LeaseTable()
        self.running: dict[str, Beacon] = {}
        self.muted: set[str] = set()
        self.seq = 0
        self.add("health_watcher", boot="own")
        if others:
            for service in SERVICES:
                self.add(service)
            self.add("discovery", "other")
            self.add("stage_worker", "other")
        self._sent_at = -1e9

    def add(self, service: ServiceName, node: str = "mac", **fields: Any) -> None:
        """Starts or replaces a service. ``fields`` are those of its beacon."""
        beacon = beacon_of(service, node, **fields)
        self.running[beacon.name] = beacon
        self._sent_at = -1e9

    def kill(self, *names: str) -> dict[str, Beacon]:
        """Ends services without a last beacon."""
        return {name: self.running.pop(name) for name in names}

    def drain(self, name: str) -> None:
        """Ends a service, which announces it in its last beacon."""
        beacon = self.running.pop(name)
        self.seq += 1
        self._deliver(replace(beacon, state="draining"))

    def run(self, seconds: float) -> set[str]:
        """Lets time pass. Returns the keys of all conditions at any moment."""
        seen: set[str] = set()
        end = self.now + seconds
        while self.now < end:
            self.now += STEP_S
            if self.now - self._sent_at >= 1.0:
                self._sent_at = self.now
                self.seq += 1
                if "mac.discovery" in self.running:
                    for name, beacon in self.running.items():
                        if name not in self.muted:
                            self._deliver(beacon)
            seen |= self.keys()
        return seen

    def keys(self) -> set[str]:
        """Returns the keys of the conditions that hold now."""
        return {condition.key for condition in self.conditions()}

    def conditions(self) -> list[Condition]:
        return self.rules.evaluate(self.now)

    def _deliver(self, beacon: Beacon) -> None:
        fresh = replace(beacon, seq=self.seq)
        if self.leases.observe(fresh, self.now):
            lease = self.leases.get(fresh.name)
            assert lease is not None
            self.rules.on_lease(lease, self.now)
