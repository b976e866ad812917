"""Tracks which services are alive from their beacons. Pure: time is monotonic seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pomona.messages.control import Beacon, ServiceName

LEASE_S = 3.0
BEACON_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Lease:
    """The newest beacon of a service.

    Attributes:
        received_at: arrival time of the beacon.
        progressed_at: last time at which ``progress`` rose or nothing was queued.
    """

    beacon: Beacon
    received_at: float
    progressed_at: float


class LeaseTable:
    """Leases of the services whose last beacon is at most ``lease_s`` seconds old.

    Stale beacons (out of order, or of a replaced boot) change nothing.
    """

    def __init__(self, lease_s: float = LEASE_S) -> None:
        self._lease_s = lease_s
        self._leases: dict[str, Lease] = {}
        self._replaced_boots: dict[str, str] = {}

    def observe(self, beacon: Beacon, now: float) -> bool:
        """Records a beacon.

        Returns:
            True when the beacon is new: of a new boot, or newer than the last one.
        """
        known = self._leases.get(beacon.name)
        if self._replaced_boots.get(beacon.name) == beacon.boot:
            return False
        if known is None:
            self._leases[beacon.name] = Lease(beacon, now, now)
            return True
        if known.beacon.boot == beacon.boot:
            if beacon.seq <= known.beacon.seq:
                return False
            advanced = beacon.queued == 0 or beacon.progress != known.beacon.progress
            self._leases[beacon.name] = Lease(beacon, now, now if advanced else known.progressed_at)
            return True
        self._replaced_boots[beacon.name] = known.beacon.boot
        self._leases[beacon.name] = Lease(beacon, now, now)
        return True

    def expire(self, now: float) -> list[Beacon]:
        """Removes expired leases and returns their last beacons.

        The boot that an expired service had replaced is accepted again: of two processes with
        one name, the survivor gets the lease.
        """
        expired = [x for x in self._leases.values() if now - x.received_at > self._lease_s]
        for lease in expired:
            del self._leases[lease.beacon.name]
            self._replaced_boots.pop(lease.beacon.name, None)
        return [lease.beacon for lease in expired]

    def remove_nodes(self, is_member: Callable[[str], bool]) -> list[Beacon]:
        """Removes the leases of nodes that are not members, and returns their last beacons."""
        removed = [x.beacon for x in self._leases.values() if not is_member(x.beacon.node)]
        for beacon in removed:
            del self._leases[beacon.name]
            self._replaced_boots.pop(beacon.name, None)
        return removed

    def get(self, name: str) -> Lease | None:
        return self._leases.get(name)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._leases.values()))

    def of_service(self, service: ServiceName) -> list[Beacon]:
        """Returns the newest beacons of all live services of one kind, sorted by name."""
        found = [x.beacon for x in self._leases.values() if x.beacon.facts.service == service]
        return sorted(found, key=lambda beacon: beacon.name)
