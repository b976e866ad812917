"""The requests that wait for their turn: the most urgent first, but none for ever."""

from __future__ import annotations

from collections.abc import Iterator

from pomona.messages.data import MAX_PLACES, Queued, QueuePlace, Submit
from pomona_stage_worker.scheduling.state import Sequence

PRIORITY_S = 5.0
"""A step of priority counts as having come so many seconds later. So whoever comes later than
that, however urgent, waits behind, and nobody starves."""


class Waiting:
    """A bounded queue.

    Args:
        most: requests that may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    @property
    def first(self) -> Sequence | None:
        return self._sequences[0] if self._sequences else None

    @property
    def is_full(self) -> bool:
        return len(self) >= self._most

    @property
    def deadline(self) -> float | None:
        """When the next one expires, in the caller's clock."""
        return min((x.expires_at for x in self), default=None)

    def has_share_filled(self, submit: Submit) -> bool:
        """Whether requests of its key take all of the queue that they may take."""
        if submit.queue_share == 1.0:
            return False
        allowed = max(1, int(submit.queue_share * self._most))
        return sum(x.submit.share == submit.share for x in self) >= allowed

    def add(self, sequence: Sequence) -> None:
        sequence.phase = "waiting"
        self._sequences.append(sequence)
        self._sequences.sort(key=lambda x: (x.turn, x.arrived))

    def remove(self, sequence: Sequence) -> None:
        self._sequences.remove(sequence)

    def take_expired(self, now: float) -> list[Sequence]:
        """Remove and return those that have waited too long."""
        late = [x for x in self if x.expires_at <= now]
        for sequence in late:
            self.remove(sequence)
        return late

    def places(self) -> dict[str, Queued]:
        """What to tell each gateway: which of its requests wait, and at which places."""
        places: dict[str, list[QueuePlace]] = {}
        for position, sequence in enumerate(self._sequences[:MAX_PLACES], 1):
            place = QueuePlace(*sequence.key, position)
            places.setdefault(sequence.submit.reply, []).append(place)
        return {reply: Queued("queued", tuple(of_it)) for reply, of_it in places.items()}
