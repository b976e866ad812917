"""The requests that wait for their turn: urgent ones first, fair between keys, none for ever."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import chain, islice

from pomona.messages.limits import MAX_QUEUE_PLACES
from pomona.messages.pipeline import Queued, QueuePlace, Submit
from pomona_stage_worker.scheduler.sequence import Sequence

PRIORITY_S = 25.0
"""A step of priority makes a request due so many seconds after it came. Then it is as urgent as
any, so that nobody starves."""


class RequestQueue:
    """A bounded queue in which each key (``share``) has a line of its own.

    Next is who is due; among those the keys take turns, whatever each has waiting, and who came
    first goes first. In a round each key may begin one request; a key that had none for a while
    joins the present round (start-time fair queueing, https://doi.org/10.1145/248156.248171).

    Args:
        most: requests that may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: dict[str, list[Sequence]] = {}
        self._round = 0
        self._next_rounds: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Sequence]:
        return chain.from_iterable(self._lines.values())

    @property
    def is_overfull(self) -> bool:
        return len(self) > self._most

    @property
    def deadline(self) -> float | None:
        """When the next one expires, in the caller's clock."""
        return min((x.expires_at for x in self), default=None)

    def has_share_filled(self, submit: Submit) -> bool:
        """Whether requests of its key take all of the queue that they may take."""
        if submit.queue_share == 1.0:
            return False
        allowed = max(1, int(submit.queue_share * self._most))
        return len(self._lines.get(submit.share, ())) >= allowed

    def add(self, sequence: Sequence) -> None:
        sequence.phase = "waiting"
        line = self._lines.setdefault(sequence.submit.share, [])
        line.append(sequence)
        line.sort(key=lambda x: (x.turn, x.arrived))

    def remove(self, sequence: Sequence) -> None:
        share = sequence.submit.share
        self._lines[share].remove(sequence)
        if not self._lines[share]:
            del self._lines[share]

    def begin(self, sequence: Sequence) -> None:
        """Remove one whose turn it is."""
        share = sequence.submit.share
        self.remove(sequence)
        self._round = self._next_round(share)
        kept = {x: n for x, n in self._next_rounds.items() if n > self._round}
        self._next_rounds = {**kept, share: self._round + 1}

    def take_expired(self, now: float) -> list[Sequence]:
        """Remove and return those that have waited too long."""
        late = [x for x in self if x.expires_at <= now]
        for sequence in late:
            self.remove(sequence)
        return late

    def order(self, now: float) -> Iterator[Sequence]:
        """As they would be begun if nobody came and none became due. Nothing may be added or
        removed meanwhile."""

        def rank(share: str, place: int) -> tuple[bool, int, float, int, str, int]:
            x = self._lines[share][place]
            return x.turn > now, self._next_round(share) + place, x.turn, x.arrived, share, place

        nexts = [rank(share, 0) for share in self._lines]
        heapq.heapify(nexts)
        while nexts:
            *_, share, place = heapq.heappop(nexts)
            yield self._lines[share][place]
            if place + 1 < len(self._lines[share]):
                heapq.heappush(nexts, rank(share, place + 1))

    def places(self, now: float) -> dict[str, Queued]:
        """What to tell each gateway: which of its requests wait, and at which places."""
        places: dict[str, list[QueuePlace]] = {}
        for position, sequence in enumerate(islice(self.order(now), MAX_QUEUE_PLACES), 1):
            place = QueuePlace(*sequence.key, position)
            places.setdefault(sequence.submit.reply, []).append(place)
        return {reply: Queued(tuple(of_it)) for reply, of_it in places.items()}

    def _next_round(self, share: str) -> int:
        return max(self._round, self._next_rounds.get(share, 0))
