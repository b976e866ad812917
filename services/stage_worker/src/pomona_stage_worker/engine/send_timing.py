"""When the step that is being computed will end: pure, time is a parameter (seconds).

What a stage knows of a step's message before it has computed goes ahead of the rest. Sent a
moment before the end, not at the beginning, it also wakes everything on the way: the threads of
both ends, the processors under them, and in their caches the code that the rest will need. Being
woken, and cold code, cost more than all else that a hop does.

Only a lone lane's steps are foreseen. With more, the next stage has another lane's step to
compute meanwhile, and nobody waits for this one: its first part goes at once, to be read when
there is time. A step that is over in no time comes in one part, which costs less.
"""

from __future__ import annotations

from collections import deque

LEAST_SEEN, MOST_SEEN = 3, 8
"""Steps of the lane that count. The quickest of them is expected: a message that goes too early
costs little, and one that goes after the end delays it."""
LEAD_S = 0.001
"""What the first part takes to arrive and be read, and a little more."""

Shape = tuple[int, ...]


class SendTimer:
    """Learns how long the steps of a lone lane take."""

    def __init__(self) -> None:
        self._kind: tuple[int | None, Shape] = None, ()
        self._seconds: deque[float] = deque(maxlen=MOST_SEEN)
        self._last_s = 0.0

    def announce_after(self, lane: int | None, shape: Shape) -> float | None:
        """How long after a step's beginning its first part shall go; 0 for at once, None when
        the step shall come in one part.

        Args:
            shape: of the step's token ids.
        """
        if self._last_s < LEAD_S:
            return None
        if lane is None or (lane, shape) != self._kind or len(self._seconds) < LEAST_SEEN:
            return 0.0
        return max(min(self._seconds) - LEAD_S, 0.0)

    def took(self, lane: int | None, shape: Shape, seconds: float, waited_s: float = 0.0) -> None:
        """A step was computed. Args: waited_s: when, after its beginning, its wait ended; 0
        without one."""
        if (lane, shape) != self._kind:
            self._kind = lane, shape
            self._seconds.clear()
        self._last_s = seconds
        if waited_s and seconds - waited_s < LEAD_S / 2:
            # It had ended before, nobody knows when. Were the wait taken for the step, a thread
            # that is always woken late would wait longer from step to step.
            seconds = min(self._seconds) - LEAD_S
        self._seconds.append(seconds)
