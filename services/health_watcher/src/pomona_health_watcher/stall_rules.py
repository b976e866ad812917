"""Finds stalled stage workers. Pure.

A stalled worker still sends beacons, so its lease holds. Its progress counter, however, does
not change while its queue holds work.
"""

from __future__ import annotations

from pomona.leases import Lease
from pomona_health_watcher.conditions import Condition, title_of


def stall_of(lease: Lease, stall_after_s: float) -> Condition | None:
    """Returns a condition when a ready worker with queued work makes no progress.

    Both times come from beacons: time in which no beacon arrives does not count.
    """
    beacon = lease.beacon
    idle_s = lease.received_at - lease.progressed_at
    if beacon.state != "ready" or not beacon.queued or idle_s < stall_after_s:
        return None
    return Condition(
        f"stalled/{beacon.name}",
        "critical",
        f"{title_of(beacon)} is stalled: {beacon.queued} items are queued, and none "
        f"finished in {idle_s:.0f} s.",
    )
