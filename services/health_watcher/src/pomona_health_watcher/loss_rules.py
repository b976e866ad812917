"""Finds lost services and lost nodes in the leases of services. Pure.

Silence has two causes. A service whose beacons stop is lost. A watcher that receives no
beacons, not even its own, has lost the discovery service of its node, and knows nothing about
the other services until beacons arrive again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from pomona.leases import BEACON_INTERVAL_S, LEASE_S, Lease
from pomona.messages.control import Beacon, ServiceName, State
from pomona_health_watcher.conditions import Condition, Severity, service_title

ECHO_TIMEOUT_S: Final = BEACON_INTERVAL_S * 1.5
"""Seconds without the watcher's own beacons after which the silence of others proves nothing."""
SETTLE_S: Final = BEACON_INTERVAL_S * 1.5
"""Seconds between the end of a lease and the alert of the service alone. The services of one
node fall silent within a beacon interval of each other; by then the whole node may be lost."""
RETURN_GRACE_S: Final = 10.0
"""Seconds for the first beacon of a service after its node or the watcher has reconnected."""
MAX_EVALUATION_GAP_S: Final = BEACON_INTERVAL_S
"""Seconds between two evaluations after which unread beacons may be waiting."""
START_GRACE_S: Final = 15.0
"""Seconds for the first beacon of this node's discovery service."""
SETTLED_S: Final = 20.0
"""Seconds of beacons after which alerts of a former watcher process are re-evaluated."""
FORGET_AFTER_S: Final = 86400.0
"""Seconds after which a lost service counts as removed."""


@dataclass(frozen=True, slots=True)
class KnownService:
    """A service in the state file, kept over a restart of the watcher.

    Attributes:
        lost: its lease ended.
        alerted: its loss is an alert of its own.
        alerted_with_node: its loss is part of an alert for its node.
    """

    name: str
    node: str
    service: ServiceName
    boot: str
    state: State
    lost: bool = False
    # The aliases are the keys in the state file, which an update must be able to read.
    alerted: Annotated[bool, Field(alias="alone")] = False
    alerted_with_node: Annotated[bool, Field(alias="with_node")] = False


@dataclass(frozen=True, slots=True)
class Death:
    """A service that died, noticed by the first beacon of its successor.

    Attributes:
        former: its last beacon; None when the watcher was away.
        at: monotonic time of that beacon, or the watcher's start.
        alerted: its loss was an alert of its own.
    """

    former: Beacon | None
    at: float
    alerted: bool


@dataclass(slots=True)
class _Service:
    name: str
    node: str
    service: ServiceName
    boot: str
    state: State
    last_beacon_at: float
    lease: Lease | None = None
    lost_at: float | None = None
    alert_from: float = 0.0
    alerted: bool = False
    alerted_with_node: bool = False

    def death(self) -> Death | None:
        """Returns its death, unless it drained or is part of the alert for its node."""
        if self.state == "draining" or self.alerted_with_node:
            return None
        former = self.lease.beacon if self.lease is not None else None
        return Death(former, self.last_beacon_at, self.alerted)

    def lost(self, now: float) -> Condition:
        severity: Severity = "warning" if self.service == "health_watcher" else "critical"
        title = service_title(self.service, self.name)
        return Condition(
            f"service_lost/{self.name}",
            severity,
            f"{title} on node {self.node} is lost: it sent no beacon for {LEASE_S:.0f} s and did "
            "not announce a shutdown.",
            now - self.last_beacon_at,
        )


class LossRules:
    """Follows the lease of each service.

    Args:
        name, boot, node: of the watcher itself. Its own beacons prove its connection.
        known: services that a former process of this watcher knew.
    """

    def __init__(
        self, name: str, boot: str, node: str, now: float, known: Iterable[KnownService] = ()
    ) -> None:
        self._name = name
        self._boot = boot
        self._node = node
        self._started_at = now
        self._evaluated_at = now
        self._echo_at: float | None = None
        self._connected_since: float | None = None
        self._return_grace_s = RETURN_GRACE_S
        self._disconnection_alerted = False
        self._services: dict[str, _Service] = {}
        self._lost_nodes: set[str] = set()
        for x in known:
            self._services[x.name] = _Service(
                x.name, x.node, x.service, x.boot, x.state, now,
                lost_at=now if x.lost else None,
                alerted=x.alerted, alerted_with_node=x.alerted_with_node,
            )  # fmt: skip

    def on_lease(self, lease: Lease, now: float) -> Death | None:
        """Applies a new beacon. Returns the death of the process that its sender replaces."""
        beacon = lease.beacon
        if beacon.name == self._name:
            if beacon.boot == self._boot:
                self._on_echo(now)
            return None
        service = self._services.get(beacon.name)
        death: Death | None = None
        if service is None:
            service = self._services[beacon.name] = _Service(
                beacon.name, beacon.node, beacon.facts.service, beacon.boot, beacon.state, now
            )
        elif service.boot != beacon.boot:
            death = service.death()
        service.boot, service.state, service.node = beacon.boot, beacon.state, beacon.node
        service.lease, service.last_beacon_at = lease, now
        service.lost_at, service.alerted, service.alerted_with_node = None, False, False
        return death

    def evaluate(self, now: float) -> list[Condition]:
        """Returns every loss that lasts now."""
        if self._echo_at is not None and now - self._evaluated_at > MAX_EVALUATION_GAP_S:
            self._echo_at = max(self._echo_at, now - ECHO_TIMEOUT_S - 1e-3)
        self._evaluated_at = now
        found: list[Condition] = []
        if self.is_connected(now):
            self._end_leases(now)
        else:
            found += self._disconnection(now)
        return [*found, *self._losses(now)]

    def settled(self, now: float) -> bool:
        """True when beacons have arrived for long enough to judge a former process's alerts."""
        return self._connected_since is not None and now - self._connected_since >= SETTLED_S

    def leases(self) -> list[Lease]:
        """The last lease of every known service, lost ones included."""
        return [x.lease for x in self._services.values() if x.lease is not None]

    def live(self) -> dict[str, Beacon]:
        """The newest beacon of every service that is not lost, by name."""
        return {
            x.name: x.lease.beacon
            for x in self._services.values()
            if x.lease is not None and x.lost_at is None
        }

    def known_services(self) -> list[KnownService]:
        """Returns the services for the state file, by name."""
        return [
            KnownService(
                x.name, x.node, x.service, x.boot, x.state,
                x.lost_at is not None, x.alerted, x.alerted_with_node,
            )
            for x in sorted(self._services.values(), key=lambda service: service.name)
        ]  # fmt: skip

    # The watcher's own connection ------------------------------------------------------

    def is_connected(self, now: float) -> bool:
        """True while the watcher's own beacons come back."""
        return self._echo_at is not None and now - self._echo_at <= ECHO_TIMEOUT_S

    def _on_echo(self, now: float) -> None:
        if self._echo_at is None or now - self._echo_at > LEASE_S:
            self._connected_since, self._return_grace_s = now, RETURN_GRACE_S
        elif not self.is_connected(now):
            self._connected_since, self._return_grace_s = now, LEASE_S
        self._echo_at = now
        self._disconnection_alerted = False

    def _disconnection(self, now: float) -> Iterator[Condition]:
        discovery = self._services.get(f"{self._node}.discovery")
        if self._echo_at is None:
            lost = now - self._started_at > START_GRACE_S
        else:
            lost = now - self._echo_at > LEASE_S
        if discovery is not None and discovery.state == "draining":
            lost = False
        if not lost and not self._disconnection_alerted:
            return
        self._disconnection_alerted = True
        if discovery is not None:
            discovery.alerted_with_node = True
        yield Condition(
            f"service_lost/{self._node}.discovery",
            "critical",
            f"discovery {self._node}.discovery on node {self._node} is lost: no beacons arrive, so "
            "the state of all other services is unknown until it is back.",
            now - (self._started_at if self._echo_at is None else self._echo_at),
        )

    # Services and nodes ----------------------------------------------------------------

    def _end_leases(self, now: float) -> None:
        connected_since = self._connected_since or 0.0
        for service in list(self._services.values()):
            if service.lost_at is not None:
                if now - service.lost_at > FORGET_AFTER_S:
                    del self._services[service.name]
                continue
            ends_at = service.last_beacon_at + LEASE_S
            if service.last_beacon_at < connected_since:
                ends_at = max(ends_at, connected_since + self._return_grace_s)
            if now <= ends_at:
                continue
            if service.state == "draining":
                del self._services[service.name]
            else:
                service.lost_at, service.alerted_with_node = now, False
                service.alert_from = now + SETTLE_S

    def _losses(self, now: float) -> Iterator[Condition]:
        nodes: dict[str, list[_Service]] = {}
        for service in self._services.values():
            nodes.setdefault(service.node, []).append(service)
        for node, services in nodes.items():
            lost = [service for service in services if service.lost_at is not None]
            node_lost = self._is_node_lost(node, services, lost)
            if node_lost:
                self._lost_nodes.add(node)
                for service in lost:
                    service.alerted_with_node = True
                names = ", ".join(sorted(service.name for service in lost))
                yield Condition(
                    f"node_lost/{node}",
                    "critical",
                    f"node {node} is lost: no beacon from {names}. The machine, its network or "
                    "its discovery service is down.",
                    now - max(service.last_beacon_at for service in lost),
                )
            elif node in self._lost_nodes:
                self._lost_nodes.remove(node)
                for service in lost:
                    service.alert_from = now + RETURN_GRACE_S
            for service in lost:
                if not node_lost and now >= service.alert_from:
                    service.alerted = True
                if service.alerted:
                    yield service.lost(now)
        self._lost_nodes &= set(nodes)

    def _is_node_lost(self, node: str, services: list[_Service], lost: list[_Service]) -> bool:
        if node == self._node or len(lost) < len(services):
            return False
        return len(lost) > 1 or lost[0].service == "discovery"
