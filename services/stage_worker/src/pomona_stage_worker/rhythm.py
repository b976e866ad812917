"""When the next message of a lone user is due: pure, time is a parameter (seconds).

One lane in a pipeline means that its messages come at even intervals. A thread that sleeps
until one arrives is woken late, by as much as the rest of a hop costs; one that is awake a
moment before is not.
"""

from __future__ import annotations

_WEIGHT = 0.25
_LEAST_INTERVAL_S = 0.002
_EARLY_SHARE = 0.02


class Rhythm:
    """Learns the interval at which one lane's messages arrive."""

    def __init__(self) -> None:
        self._lane: int | None = None
        self._arrived_at = 0.0
        self._interval_s = 0.0

    def arrived(self, lane: int | None, now: float) -> None:
        """A message arrived; another lane, or none, ends the rhythm."""
        if lane is None or lane != self._lane:
            self._interval_s = 0.0
        else:
            interval = now - self._arrived_at
            known = self._interval_s
            self._interval_s = known + _WEIGHT * (interval - known) if known else interval
        self._lane = lane
        self._arrived_at = now

    def due(self) -> tuple[float, float] | None:
        """(from, until) when to be awake for the next message; None without a rhythm."""
        interval = self._interval_s
        if interval < _LEAST_INTERVAL_S:
            return None
        early = max(0.001, _EARLY_SHARE * interval)
        expected = self._arrived_at + interval
        return expected - early, expected + 4 * early
