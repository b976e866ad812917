"""Finds stalled stage workers. Pure.

A stalled worker still sends beacons, so its lease holds. Its progress counter, however, does
not change while its queue holds work. The counter moves at the end of each step, and a step that
reads a chunk of a prompt may take longer than any step that writes replies.
"""

from __future__ import annotations

from pomona.leases import Lease
from pomona.messages.control import StageWorkerFacts
from pomona_health_watcher.conditions import Condition, title_of

TOKEN_S = 0.25
"""Seconds that a token of the running step may take. A slower pipeline is not usable."""


def stall_of(lease: Lease, stall_after_s: float) -> Condition | None:
    """Returns a condition when a ready worker with queued work makes no progress.

    The step that runs may take ``TOKEN_S`` for each of its tokens in addition. Both times come
    from beacons: time in which no beacon arrives does not count.
    """
    beacon = lease.beacon
    idle_s = lease.received_at - lease.progressed_at
    facts = beacon.facts
    step_tokens = facts.step_tokens if isinstance(facts, StageWorkerFacts) else 0
    limit_s = stall_after_s + step_tokens * TOKEN_S
    if beacon.state != "ready" or not beacon.queued or idle_s < limit_s:
        return None
    return Condition(
        f"stalled/{beacon.name}",
        "critical",
        f"{title_of(beacon)} is stalled: {beacon.queued} items are queued, and none "
        f"finished in {idle_s:.0f} s.",
    )
