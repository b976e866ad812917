"""Scheduling policy of a request in the head's queue."""

from __future__ import annotations

from dataclasses import dataclass

from pomona.messages.pipeline import Submit


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Tenant and urgency of a request. Passed by reference from the API to the scheduler.

    Attributes:
        tenant: owner of the request. Cached prefixes are shared within a tenant only, and
            tenants take turns in the queue.
        priority: 0 (most urgent) to 9. Each step lets requests that arrived up to 25 s later
            go first.
        queue_share: fraction of the queue that one tenant's requests may fill, in (0, 1].
    """

    tenant: str = ""
    priority: int = 0
    queue_share: float = 1.0


DEFAULT_POLICY = QueuePolicy()


def policy_of(submit: Submit) -> QueuePolicy:
    """Reads the policy from the three fields of a ``Submit``."""
    return QueuePolicy(submit.share, submit.priority, submit.queue_share)
