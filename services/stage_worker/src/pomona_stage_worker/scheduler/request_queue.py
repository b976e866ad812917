"""The queue of requests that wait for admission: by urgency, and fair between tenants."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import chain, islice

from pomona.messages.limits import MAX_QUEUE_PLACES
from pomona.messages.pipeline import Queued, QueuePlace
from pomona.queue_policy import QueuePolicy
from pomona_stage_worker.scheduler.sequence import Sequence

PRIORITY_S = 25.0
"""Seconds by which each step of priority delays the time at which a request is due. A due
request is as urgent as any other, so that none starves."""


class RequestQueue:
    """A bounded queue, fair between tenants.

    Due requests go first. Among those the tenants take turns, however many requests each has, and
    requests of one tenant go in order of arrival. In a round each tenant may start one request; a
    tenant that had none for a while joins the present round (start-time fair queueing,
    https://doi.org/10.1145/248156.248171).

    Args:
        capacity: most requests that may wait.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._by_tenant: dict[str, list[Sequence]] = {}
        self._round = 0
        self._next_rounds: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_tenant.values()))

    def __iter__(self) -> Iterator[Sequence]:
        return chain.from_iterable(self._by_tenant.values())

    @property
    def is_overfull(self) -> bool:
        return len(self) > self._capacity

    @property
    def deadline(self) -> float | None:
        """Time at which the next request expires, seconds of the caller's clock."""
        return min((x.expires_at for x in self), default=None)

    def is_share_full(self, policy: QueuePolicy) -> bool:
        """Returns True when the tenant's requests fill its share of the queue."""
        if policy.queue_share == 1.0:
            return False
        allowed = max(1, int(policy.queue_share * self._capacity))
        return len(self._by_tenant.get(policy.tenant, ())) >= allowed

    def add(self, sequence: Sequence) -> None:
        sequence.phase = "waiting"
        requests = self._by_tenant.setdefault(sequence.policy.tenant, [])
        requests.append(sequence)
        requests.sort(key=lambda x: (x.due_at, x.arrival))

    def remove(self, sequence: Sequence) -> None:
        tenant = sequence.policy.tenant
        self._by_tenant[tenant].remove(sequence)
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]

    def admit(self, sequence: Sequence) -> None:
        """Removes a request that starts and counts it as its tenant's turn."""
        tenant = sequence.policy.tenant
        self.remove(sequence)
        self._round = self._next_round(tenant)
        ahead = {x: n for x, n in self._next_rounds.items() if n > self._round}
        self._next_rounds = {**ahead, tenant: self._round + 1}

    def take_expired(self, now: float) -> list[Sequence]:
        """Removes and returns the requests whose deadline has passed."""
        expired = [x for x in self if x.expires_at <= now]
        for sequence in expired:
            self.remove(sequence)
        return expired

    def order(self, now: float) -> Iterator[Sequence]:
        """Yields the requests in the order in which they would start if the queue and the
        time did not change. The queue must not change during the iteration."""

        def rank(tenant: str, place: int) -> tuple[bool, int, float, int, str, int]:
            x = self._by_tenant[tenant][place]
            turn = self._next_round(tenant) + place
            return x.due_at > now, turn, x.due_at, x.arrival, tenant, place

        heads = [rank(tenant, 0) for tenant in self._by_tenant]
        heapq.heapify(heads)
        while heads:
            *_, tenant, place = heapq.heappop(heads)
            yield self._by_tenant[tenant][place]
            if place + 1 < len(self._by_tenant[tenant]):
                heapq.heappush(heads, rank(tenant, place + 1))

    def places(self, now: float) -> dict[str, Queued]:
        """Returns the first ``MAX_QUEUE_PLACES`` places as a message for each gateway."""
        places: dict[str, list[QueuePlace]] = {}
        for position, sequence in enumerate(islice(self.order(now), MAX_QUEUE_PLACES), 1):
            place = QueuePlace(*sequence.key, position)
            places.setdefault(sequence.submit.reply, []).append(place)
        return {reply: Queued(tuple(places_here)) for reply, places_here in places.items()}

    def _next_round(self, tenant: str) -> int:
        return max(self._round, self._next_rounds.get(tenant, 0))
