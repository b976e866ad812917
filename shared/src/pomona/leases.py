"""Who is alive, by the beacons heard: pure, time is a parameter (monotonic seconds)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pomona.messages.control import Beacon, ServiceName

LEASE_S = 3.0
BEACON_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Lease:
    """The newest beacon of a service.

    Attributes:
        received_at: when it arrived.
        progressed_at: when ``progress`` last rose, or nothing was queued.
    """

    beacon: Beacon
    received_at: float
    progressed_at: float


class LeaseTable:
    """The services that spoke within the last ``lease_s`` seconds.

    Stale beacons (of an earlier boot, or out of order) change nothing.
    """

    def __init__(self, lease_s: float = LEASE_S) -> None:
        self._lease_s = lease_s
        self._leases: dict[str, Lease] = {}
        self._ended_boots: dict[str, str] = {}

    def observe(self, beacon: Beacon, now: float) -> bool:
        """Take in a beacon. True when it is news: of a new boot, or newer than the last."""
        known = self._leases.get(beacon.name)
        if self._ended_boots.get(beacon.name) == beacon.boot:
            return False
        if known is None:
            self._leases[beacon.name] = Lease(beacon, now, now)
            return True
        if known.beacon.boot == beacon.boot:
            if beacon.seq <= known.beacon.seq:
                return False
            idle = beacon.queued == 0 or beacon.progress != known.beacon.progress
            self._leases[beacon.name] = Lease(beacon, now, now if idle else known.progressed_at)
            return True
        self._ended_boots[beacon.name] = known.beacon.boot
        self._leases[beacon.name] = Lease(beacon, now, now)
        return True

    def expire(self, now: float) -> list[Beacon]:
        """Forget who was silent too long; their last beacons.

        The boot that a silent one had replaced may speak again: when two processes bore
        one name, the one that is left is heard.
        """
        silent = [x for x in self._leases.values() if now - x.received_at > self._lease_s]
        for lease in silent:
            del self._leases[lease.beacon.name]
            self._ended_boots.pop(lease.beacon.name, None)
        return [lease.beacon for lease in silent]

    def get(self, name: str) -> Lease | None:
        return self._leases.get(name)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._leases.values()))

    def of_service(self, service: ServiceName) -> list[Beacon]:
        """The beacons of the living services of a kind, by name."""
        found = [x.beacon for x in self._leases.values() if x.beacon.facts.service == service]
        return sorted(found, key=lambda beacon: beacon.name)
