"""When the next message of a lone user is due: pure, time is a parameter (seconds).

One lane in a pipeline means that its messages come at even intervals. A thread that sleeps
until one arrives is woken late, by as much as the rest of a hop costs; one that is awake a
moment before is not. The moment is as long as the intervals vary, estimated as TCP
estimates round trips (RFC 6298): a smoothed interval and a smoothed deviation.
"""

from __future__ import annotations

_INTERVAL_WEIGHT = 0.25
_DEVIATION_WEIGHT = 0.25
_DEVIATIONS = 4
_LEAST_INTERVAL_S = 0.002
_LEAST_MARGIN_S = 0.0005
_MOST_MARGIN_SHARE = 0.05
"""Of an interval: more awake time on either side of a message is not worth its power."""


class Rhythm:
    """Learns the interval at which one lane's messages arrive."""

    def __init__(self) -> None:
        self._lane: int | None = None
        self._arrived_at = 0.0
        self._interval_s = 0.0
        self._deviation_s = 0.0

    def arrived(self, lane: int | None, now: float) -> None:
        """A message arrived; another lane, or none, ends the rhythm."""
        if lane is None or lane != self._lane:
            self._interval_s = 0.0
        else:
            self._observe(now - self._arrived_at)
        self._lane = lane
        self._arrived_at = now

    def _observe(self, interval_s: float) -> None:
        if not self._interval_s:
            self._interval_s, self._deviation_s = interval_s, interval_s
            return
        error = interval_s - self._interval_s
        self._interval_s += _INTERVAL_WEIGHT * error
        self._deviation_s += _DEVIATION_WEIGHT * (abs(error) - self._deviation_s)

    def due(self) -> tuple[float, float] | None:
        """(from, until) when to be awake for the next message; None without a rhythm."""
        interval = self._interval_s
        if interval < _LEAST_INTERVAL_S:
            return None
        most = _MOST_MARGIN_SHARE * interval
        margin = min(max(_DEVIATIONS * self._deviation_s, _LEAST_MARGIN_S), most)
        expected = self._arrived_at + interval
        return expected - margin, expected + margin
