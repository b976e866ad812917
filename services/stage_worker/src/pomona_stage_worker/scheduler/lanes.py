"""The lanes of a pipeline: which sequences are decoded in the same steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from pomona.messages.cache_ops import Join, Leave, Op, Rollback
from pomona_stage_worker.scheduler.sequence import Lane, Sequence


class Lanes:
    """A bounded number of evenly filled lanes.

    Each method that moves rows returns the ops which do so in every stage.

    Args:
        limit: most lanes; may be changed later.
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
        """Returns the lanes without a step in the pipeline, longest waiting first."""
        return [lane for lane in self._in_order() if not lane.is_stepping]

    @property
    def has_guesses(self) -> bool:
        """True while guesses are in flight. Their rows must not move: what the caches will hold
        is not known yet."""
        return any(lane.rows[0].draft.issued for lane in self if len(lane.rows) == 1)

    def rollback(self, sequence: Sequence, length: int) -> list[Op]:
        """Keeps the first ``length`` tokens in the caches of a row. Its steps in the pipeline
        become those of an older branch."""
        if sequence.lane is None or sequence.computed <= length:
            return []
        lane = self._lanes[sequence.lane]
        sequence.computed = length
        lane.steps.clear()
        lane.branch += 1
        return [Rollback(lane.number, length, lane.branch)]

    def join(self, sequence: Sequence) -> Op:
        """Adds a sequence, opening a new lane while the limit permits."""
        if len(self) < self.limit:
            lane = self._new()
        else:
            lane = min(self, key=lambda lane: (len(lane.rows), lane.is_stepping))
        sequence.last_step = lane.last_step
        return self._enter(lane, [sequence])

    def leave(self, sequence: Sequence) -> list[Op]:
        """Removes a sequence from its lane, if it is in one."""
        if sequence.lane is None:
            return []
        return [self._take_out(self._lanes[sequence.lane], [sequence])]

    def balance(self) -> list[Op]:
        """Merges lanes above the limit, splits the fullest idle lane below it, and evens out
        the rows.

        A row moves only to the lane that goes right after its own and then waits with it, so
        that no row is decoded twice before another one once.
        """
        ops: list[Op] = []
        while len(self) > self.limit:
            pairs = pairwise(self._in_order())
            lane, after = min(pairs, key=lambda pair: len(pair[0].rows) + len(pair[1].rows))
            ops += self._move(lane, after, lane.rows)
        if not self._can_batch:
            return ops
        while len(self) < self.limit and (idle := self.idle()):
            fullest = max(idle, key=lambda lane: len(lane.settled_rows))
            half = len(fullest.rows) // 2
            moving = fullest.settled_rows[-half:] if half else []
            if not moving:
                break
            ops += self._move(fullest, self._new(like=fullest), moving)
        while chain := self._uneven():
            for lane, after in reversed(list(pairwise(chain))):
                ops += self._move(lane, after, lane.settled_rows[-1:])
        return ops

    def _in_order(self) -> list[Lane]:
        """Returns the lanes by the number of their last step, longest waiting first."""
        return sorted(self, key=lambda lane: lane.last_step)

    def _uneven(self) -> list[Lane]:
        """Finds consecutive lanes through which a row can be passed on to even them out.

        The last lane has at least two rows fewer than the first, and all others have a row to
        pass on. Empty when the rows are even or other lanes must step first.
        """
        order = self._in_order()
        sizes = [len(lane.rows) for lane in order]
        if max(sizes, default=0) - min(sizes, default=0) < 2:
            return []
        for begin in range(len(order)):
            for end in range(begin, len(order)):
                if sizes[end] < sizes[begin] - 1:
                    return order[begin : end + 1]
                if not order[end].settled_rows:
                    break
        return []

    def _new(self, like: Lane | None = None) -> Lane:
        """Opens a lane that goes right after ``like``, or before all others."""
        self._number += 1
        lane = self._lanes[self._number] = Lane(self._number)
        if like is not None:
            lane.last_step, lane.stepped_at = like.last_step, like.stepped_at
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
