"""The lanes of a pipeline: which sequences step together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from pomona.messages.cache_ops import Join, Leave, Op
from pomona_stage_worker.scheduler.sequence import Lane, Sequence


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
        """Lanes of which no step is in the pipeline, in their order."""
        return [lane for lane in self._in_order() if not lane.stepping]

    def join(self, sequence: Sequence) -> Op:
        """A row more, in a lane of its own while there may be another."""
        if len(self) < self.limit:
            lane = self._new()
        else:
            lane = min(self, key=lambda lane: (len(lane.rows), lane.stepping))
        sequence.stepped_at = lane.stepped_at
        return self._enter(lane, [sequence])

    def leave(self, sequence: Sequence) -> Op | None:
        """A row less; None when the sequence is in no lane."""
        if sequence.lane is None:
            return None
        return self._take_out(self._lanes[sequence.lane], [sequence])

    def balance(self) -> list[Op]:
        """Merge lanes while there are too many, part the fullest at rest while there are too few,
        and even out their rows.

        A row only ever moves to the lane that goes right after its own, together with which it
        then waits: so no row is ever served twice before another once.
        """
        ops: list[Op] = []
        while len(self) > self.limit:
            pairs = pairwise(self._in_order())
            lane, after = min(pairs, key=lambda pair: len(pair[0].rows) + len(pair[1].rows))
            ops += self._move(lane, after, lane.rows)
        if not self._can_batch:
            return ops
        while len(self) < self.limit and (idle := self.idle()):
            fullest = max(idle, key=lambda lane: len(lane.served_last))
            half = len(fullest.rows) // 2
            moving = fullest.served_last[-half:] if half else []
            if not moving:
                break
            ops += self._move(fullest, self._new(like=fullest), moving)
        while chain := self._uneven():
            for lane, after in reversed(list(pairwise(chain))):
                ops += self._move(lane, after, lane.served_last[-1:])
        return ops

    def _in_order(self) -> list[Lane]:
        """In which they go: the one that has waited longest first."""
        return sorted(self, key=lambda lane: lane.stepped_at)

    def _uneven(self) -> list[Lane]:
        """Neighbours of which the last has at least two rows less than the first, and all but the
        last have one to pass on; none when rows are even or must wait for others to go."""
        order = self._in_order()
        sizes = [len(lane.rows) for lane in order]
        if max(sizes, default=0) - min(sizes, default=0) < 2:
            return []
        for begin in range(len(order)):
            for end in range(begin, len(order)):
                if sizes[end] < sizes[begin] - 1:
                    return order[begin : end + 1]
                if not order[end].served_last:
                    break
        return []

    def _new(self, like: Lane | None = None) -> Lane:
        """Args: like: a lane after which it goes; else it goes first."""
        self._number += 1
        lane = self._lanes[self._number] = Lane(self._number)
        if like is not None:
            lane.stepped_at, lane.went_at = like.stepped_at, like.went_at
        return lane

    def _move(self, lane: Lane, other: Lane, rows: Iterable[Sequence]) -> list[Op]:
        moving = list(rows)
        return [self._take_out(lane, moving), self._enter(other, moving)]

    def _enter(self, lane: Lane, rows: Iterable[Sequence]) -> Op:
        entering = list(rows)
        for row in entering:
            row.lane = lane.number
        lane.rows.extend(entering)
        return Join(lane.number, tuple(row.number for row in entering))

    def _take_out(self, lane: Lane, rows: Iterable[Sequence]) -> Op:
        leaving = list(rows)
        for row in leaving:
            row.lane = None
        lane.rows = [row for row in lane.rows if row.lane is not None]
        if not lane.rows:
            del self._lanes[lane.number]
        return Leave(lane.number, tuple(row.number for row in leaving))
