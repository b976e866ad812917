"""The lanes of a pipeline: which sequences step together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pomona.messages.data import Join, Leave, Op
from pomona_stage_worker.scheduling.state import Lane, Sequence


class Lanes:
    """About as many lanes as stages, filled evenly. Whatever moves a row gives the op for it.

    Args:
        limit: most lanes; may change.
        can_batch: whether a lane may have more than one row.
    """

    def __init__(self, limit: int, can_batch: bool) -> None:
        self.limit = limit
        self._can_batch = can_batch
        self._lanes: dict[int, Lane] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def get(self, number: int) -> Lane | None:
        return self._lanes.get(number)

    @property
    def rows(self) -> int:
        return sum(len(lane.rows) for lane in self)

    def idle(self) -> list[Lane]:
        """Lanes of which no step is in the pipeline; the one that has waited longest first."""
        return sorted((x for x in self if not x.stepping), key=lambda lane: lane.stepped_at)

    def ready(self) -> list[Lane]:
        """The idle lanes that may step; those that are to merge, or to even out their rows, wait
        for each other."""
        waiting = {lane.number for lane in self._unsettled()}
        return [lane for lane in self.idle() if lane.number not in waiting]

    def join(self, sequence: Sequence) -> Op:
        """A row more, in a lane of its own while there may be another."""
        if len(self) < self.limit:
            lane = self._new()
        else:
            lane = min(self, key=lambda lane: (len(lane.rows), lane.stepping))
        return self._enter(lane, [sequence])

    def leave(self, sequence: Sequence) -> Op | None:
        """A row less; None when the sequence is in no lane."""
        if sequence.lane is None:
            return None
        return self._take_out(self._lanes[sequence.lane], [sequence])

    def balance(self) -> list[Op]:
        """Merge the emptiest lanes while there are too many, then move rows from the fullest
        lane to the emptiest; only lanes at rest."""
        ops: list[Op] = []
        while len(self) > self.limit:
            merging = [lane for lane in self._unsettled() if not lane.stepping]
            if len(merging) < 2:
                break
            emptiest, other = merging[:2]
            rows = list(emptiest.rows)
            ops += [self._take_out(emptiest, rows), self._enter(other, rows)]
        while self._can_batch and (idle := [lane for lane in self if not lane.stepping]):
            may_open = len(self) < self.limit
            fullest = max(idle, key=lambda lane: len(lane.rows))
            emptiest = min(idle, key=lambda lane: len(lane.rows))
            moving = (len(fullest.rows) - (0 if may_open else len(emptiest.rows))) // 2
            if moving == 0:
                break
            rows = fullest.rows[-moving:]
            ops.append(self._take_out(fullest, rows))
            ops.append(self._enter(self._new() if may_open else emptiest, rows))
        return ops

    def _unsettled(self) -> list[Lane]:
        """Lanes to merge, the emptiest first, or the two whose rows differ too much in number."""
        lanes = sorted(self, key=lambda lane: len(lane.rows))
        if len(lanes) > self.limit:
            return lanes[: len(lanes) - self.limit + 1]
        if self._can_batch and lanes and len(lanes[-1].rows) > len(lanes[0].rows) + 1:
            return [lanes[0], lanes[-1]]
        return []

    def _new(self) -> Lane:
        self._number += 1
        lane = self._lanes[self._number] = Lane(self._number)
        return lane

    def _enter(self, lane: Lane, rows: Iterable[Sequence]) -> Op:
        entering = list(rows)
        for row in entering:
            row.lane = lane.number
        lane.rows.extend(entering)
        return Join("join", lane.number, tuple(row.number for row in entering))

    def _take_out(self, lane: Lane, rows: Iterable[Sequence]) -> Op:
        leaving = list(rows)
        for row in leaving:
            row.lane = None
        lane.rows = [row for row in lane.rows if row.lane is not None]
        if not lane.rows:
            del self._lanes[lane.number]
        return Leave("leave", lane.number, tuple(row.number for row in leaving))
