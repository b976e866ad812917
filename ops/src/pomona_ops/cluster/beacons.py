"""Collects the beacons of a running cluster."""

from __future__ import annotations

import time

from pomona.leases import BEACON_INTERVAL_S, LeaseTable
from pomona.messages.control import Beacon
from pomona.transport import BeaconReceiver

LISTEN_S = BEACON_INTERVAL_S * 1.4
"""Seconds in which every running service sends at least one beacon."""


async def collect_beacons(endpoint: str, cluster: str, listen_s: float = LISTEN_S) -> list[Beacon]:
    """Returns the newest beacon of every service that sent one within ``listen_s``."""
    leases = LeaseTable()
    receiver = BeaconReceiver(endpoint, cluster)
    try:
        await observe_beacons(receiver, leases, listen_s)
    finally:
        await receiver.close()
    return [lease.beacon for lease in leases]


async def observe_beacons(receiver: BeaconReceiver, leases: LeaseTable, listen_s: float) -> None:
    """Adds the beacons of the next ``listen_s`` seconds to ``leases``."""
    ends_at = time.monotonic() + listen_s
    while (left_s := ends_at - time.monotonic()) > 0:
        beacon = await receiver.receive(left_s)
        if beacon is not None:
            leases.observe(beacon, time.monotonic())
