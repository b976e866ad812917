"""Whether as many lanes as stages go round faster, or one fewer: pure, time is a parameter.

With as many lanes as stages every stage always works, and a lane comes round when the busiest
stage has served them all: whatever delays one step delays all that follow it. With one fewer
there is always a stage to spare, and a lane comes round in the time that a lone one would need;
but lanes have more rows, and what a row more costs differs by model and machine. Nothing that is
known beforehand tells which is shorter, so both are tried on the running streams.
"""

from __future__ import annotations

from statistics import median

TRIED_ROUNDS = 16
"""Of every lane, with each number of lanes."""
SETTLED_ROUNDS = 32 * TRIED_ROUNDS
"""Until both are tried again: caches have grown, machines are warm."""
_GAIN = 0.97
"""What a round must take of the other's time to be called shorter."""


class Rounds:
    """Learns, for each number of rows, with how many lanes they come round sooner.

    Args:
        stages: of the pipeline; 1 leaves no choice.
    """

    def __init__(self, stages: int) -> None:
        self._stages = stages
        self._comparisons: dict[int, _Comparison] = {}

    def lanes(self, rows: int) -> int:
        """Most lanes to keep for so many rows."""
        if self._stages == 1 or rows < self._stages:
            return self._stages
        return self._comparison(rows).lanes

    def observe(self, rows: int, lanes: int, seconds: float) -> None:
        """A lane came round undisturbed: so long after its step before."""
        if self._stages > 1 and rows >= self._stages and seconds > 0.0:
            self._comparison(rows).observe(lanes, seconds)

    def _comparison(self, rows: int) -> _Comparison:
        if rows not in self._comparisons:
            nearest = min(self._comparisons, key=lambda known: abs(known - rows), default=None)
            best = self._stages if nearest is None else self._comparisons[nearest].best
            self._comparisons[rows] = _Comparison(self._stages, best)
        return self._comparisons[rows]


class _Comparison:
    """Attributes: best: as far as is known. lanes: to be kept now, that or the other."""

    def __init__(self, stages: int, best: int) -> None:
        self.best = self.lanes = best
        self._either = 2 * stages - 1
        self._seconds: dict[int, list[float]] = {}
        self._settled = 0

    def observe(self, lanes: int, seconds: float) -> None:
        if lanes != self.lanes:
            return
        if self._settled:
            self._settled -= 1
            return
        seen = self._seconds.setdefault(lanes, [])
        seen.append(seconds)
        if len(seen) < TRIED_ROUNDS * lanes:
            return
        other = self._either - lanes
        if other in self._seconds:
            self._decide(other)
        else:
            self.lanes = other

    def _decide(self, other: int) -> None:
        """The one that was tried first was the best so far, and stays so unless clearly beaten."""
        first = self._either - self.lanes
        if median(self._seconds[self.lanes]) < _GAIN * median(self._seconds[first]):
            first = self.lanes
        self.best = self.lanes = first
        self._settled = SETTLED_ROUNDS * first
        self._seconds.clear()
