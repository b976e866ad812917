"""Predicts when a step's computation ends, to send the first part of its message just before.

The first part has everything known before the computation. Sent a moment before the end rather
than at the beginning, it also wakes the path of the second part: the threads at both ends, their
cores, and the code in their caches. Waking up and cold code are the largest cost of a hop.

Only steps of a lone lane are predicted. With several lanes the next stage computes another lane's
step meanwhile, so the first part is sent at once and read when there is time. A very short step is
sent in one part, which costs less.

The timer is pure; time is a parameter in seconds.
"""

from __future__ import annotations

from collections import deque

MIN_STEPS, MAX_STEPS = 3, 8
"""Number of a lane's latest steps that count. Their minimum is the prediction: a first part that is
too early costs little, and one after the end delays the message."""
LEAD_S = 0.001
"""Seconds before the predicted end at which the first part is sent: a little more than it takes to
arrive and be decoded."""

Shape = tuple[int, ...]


class SendTimer:
    """Learns the step time of a lone lane."""

    def __init__(self) -> None:
        self._key: tuple[int | None, Shape] = None, ()
        self._seconds: deque[float] = deque(maxlen=MAX_STEPS)
        self._last_s = 0.0

    def first_part_delay(self, lane: int | None, shape: Shape) -> float | None:
        """Returns the seconds from the start of a step until its first part is to be sent.

        0 means at once; None means that the step is to be sent in one part.

        Args:
            shape: (rows, length) of the step's token ids.
        """
        if self._last_s < LEAD_S:
            return None
        if lane is None or (lane, shape) != self._key or len(self._seconds) < MIN_STEPS:
            return 0.0
        return max(min(self._seconds) - LEAD_S, 0.0)

    def observe(
        self, lane: int | None, shape: Shape, seconds: float, waited_s: float = 0.0
    ) -> None:
        """Records a computed step.

        Args:
            seconds: time from the start of the step to its result.
            waited_s: time from the start of the step to the end of the wait before its first
                part; 0 without a wait.
        """
        if (lane, shape) != self._key:
            self._key = lane, shape
            self._seconds.clear()
        self._last_s = seconds
        if waited_s and seconds - waited_s < LEAD_S / 2:
            # It ended during the wait, at an unknown time. With the wait recorded as its time, a
            # thread that always wakes late would wait longer from step to step.
            seconds = min(self._seconds) - LEAD_S
        self._seconds.append(seconds)
