"""Whether as many lanes as stages go round faster, or one fewer: pure, time is a parameter.

With as many lanes as stages every stage always works, and a lane comes round when the busiest
stage has served them all: whatever delays one step delays all that follow it. With one fewer
there is always a stage to spare, and a lane comes round in the time that a lone one would need;
but lanes have more rows, and what a row more costs differs by model and machine. Nothing that is
known beforehand tells which is shorter, so both are tried on the running streams. Whoever
streams meanwhile pays for the worse one: a trial ends early when that is plain, and one that
changes nothing makes the next one rarer, much rarer when it was plain.
"""

from __future__ import annotations

from statistics import median

TRIED_ROUNDS = 16
"""Of every lane, with each number of lanes."""
SEEN_ROUNDS = 4
"""Of every lane, after which what is plainly worse is tried no longer."""
SETTLED_ROUNDS = 4 * TRIED_ROUNDS
"""Until both are tried again: what slows a machine down for a second makes a trial wrong."""
LONGER = 2
"""So many times the rounds until the next trial, after each that changes nothing."""
MUCH_LONGER = 8
"""The same, when it was plain."""
MOST_SETTLED_ROUNDS = 64 * SETTLED_ROUNDS
"""Caches grow, machines warm up."""
PATIENCE = 4
"""So many times the rounds that are needed may be disturbed before a trial is given up."""
_GAIN = 0.99
"""What a round must take of the other's time to be called shorter."""
_PLAINLY = 1.1
"""From so much of the other's time on, a round is plainly longer."""


class LaneCountTuner:
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

    def observe(self, rows: int, lanes: int, seconds: float | None) -> None:
        """A lane came round so long after its step before; None when chunks or users that came
        and went disturbed it."""
        if self._stages > 1 and rows >= self._stages and seconds != 0.0:
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
        self._seen = 0
        self._settled = 0
        self._held = 0

    def observe(self, lanes: int, seconds: float | None) -> None:
        if lanes != self.lanes:
            return
        if self._settled:
            self._settled -= 1
            return
        self._seen += 1
        seen = self._seconds.setdefault(lanes, [])
        if seconds is not None:
            seen.append(seconds)
        needed = TRIED_ROUNDS * lanes
        other = self._either - lanes
        if len(seen) < needed:
            if self._is_plainly_longer(lanes, other):
                self._settle(self.best, MUCH_LONGER)
            elif self._seen >= PATIENCE * needed:
                self._settle(self.best)
        elif other in self._seconds:
            clearly = median(seen) < _GAIN * median(self._seconds[other])
            self._settle(lanes if clearly else other)
        else:
            self.lanes, self._seen = other, 0

    def _is_plainly_longer(self, lanes: int, other: int) -> bool:
        """Of the number that is tried second."""
        if other not in self._seconds or len(self._seconds[lanes]) < SEEN_ROUNDS * lanes:
            return False
        return median(self._seconds[lanes]) > _PLAINLY * median(self._seconds[other])

    def _settle(self, lanes: int, longer: int = LONGER) -> None:
        """Keep so many. The number that was tried first had been the best so far."""
        if lanes != self.best:
            self._held = 0
        self._held = min(longer * self._held or SETTLED_ROUNDS, MOST_SETTLED_ROUNDS)
        self.best = self.lanes = lanes
        self._settled = self._held * lanes
        self._seconds.clear()
        self._seen = 0
