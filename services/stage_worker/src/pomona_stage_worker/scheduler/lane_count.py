"""Chooses between S and S-1 in-flight lanes for a pipeline of S stages by measuring both.

With S lanes every stage is always busy, and a lane's round (the time from one of its steps to the
next) ends when the busiest stage has served all lanes: a delay of one step delays every step
behind it. With S-1 lanes one stage is always free, and a round takes as long as that of a lone
lane; but lanes have more rows, and the cost of a row differs by model and machine. No figure
known in advance tells which is faster, so both are tried on the running streams. Users pay for
the slower one during a trial. A trial therefore ends early when its count is clearly slower, and
the next one comes later after each trial that changes nothing.

The tuner is pure; time is a parameter.
"""

from __future__ import annotations

from statistics import median

from pomona_stage_worker.scheduler.limits import SchedulerLimits

TRIAL_ROUNDS = 16
"""Rounds of every lane that are measured with each lane count."""
MIN_TRIAL_ROUNDS = 4
"""Rounds of every lane after which a clearly slower count is abandoned."""
RETRIAL_ROUNDS = 4 * TRIAL_ROUNDS
"""Rounds until the next trial. A machine that is slow for a second makes a trial wrong."""
BACKOFF = 2
"""Factor on the rounds until the next trial, after each trial that changes nothing."""
ABANDONED_BACKOFF = 8
"""The same factor after a trial that was abandoned."""
MAX_RETRIAL_ROUNDS = 64 * RETRIAL_ROUNDS
"""Bound on the backoff: caches grow and machines warm up."""
MAX_TRIAL_FACTOR = 4
"""A trial ends undecided after this many times the rounds it needs, when most rounds are
disturbed."""
_FASTER = 0.99
"""Ratio of round times below which a lane count is faster."""
_CLEARLY_SLOWER = 1.1
"""Ratio of round times above which a lane count is clearly slower."""


def starting_lane_count(limits: SchedulerLimits) -> int:
    """Returns the most lanes before any round was measured.

    Without batching each sequence has a lane of its own.
    """
    return limits.stages if limits.can_batch else limits.max_running


def max_steps_in_flight(stages: int) -> int:
    """Returns the most steps in the pipeline at once: one for each stage, and one that waits so
    that the first stage never idles."""
    return stages + 1


class LaneCountTuner:
    """Learns the faster lane count for each number of rows.

    Args:
        stages: stages of the pipeline. With 1 there is no choice.
    """

    def __init__(self, stages: int) -> None:
        self._stages = stages
        self._comparisons: dict[int, _Comparison] = {}

    def lanes(self, rows: int) -> int:
        """Returns the most lanes to keep for this number of rows."""
        if self._stages == 1 or rows < self._stages:
            return self._stages
        return self._comparison(rows).lanes

    def observe(self, rows: int, lanes: int, seconds: float | None) -> None:
        """Records one round of a lane.

        Args:
            seconds: time since the lane's last step; None when chunks or requests that came or
                went disturbed the round.
        """
        if self._stages > 1 and rows >= self._stages and seconds != 0.0:
            self._comparison(rows).observe(lanes, seconds)

    def _comparison(self, rows: int) -> _Comparison:
        if rows not in self._comparisons:
            nearest = min(self._comparisons, key=lambda known: abs(known - rows), default=None)
            best = self._stages if nearest is None else self._comparisons[nearest].best
            self._comparisons[rows] = _Comparison(self._stages, best)
        return self._comparisons[rows]


class _Comparison:
    """Trials of both lane counts for one number of rows.

    Attributes:
        best: the faster count as far as is known.
        lanes: the count to use now, ``best`` or the other during a trial.
    """

    def __init__(self, stages: int, best: int) -> None:
        self.best = self.lanes = best
        self._both = 2 * stages - 1
        self._seconds: dict[int, list[float]] = {}
        self._observed = 0
        self._rounds_left = 0
        self._interval = 0

    def observe(self, lanes: int, seconds: float | None) -> None:
        if lanes != self.lanes:
            return
        if self._rounds_left:
            self._rounds_left -= 1
            return
        self._observed += 1
        measured = self._seconds.setdefault(lanes, [])
        if seconds is not None:
            measured.append(seconds)
        needed = TRIAL_ROUNDS * lanes
        other = self._both - lanes
        if len(measured) < needed:
            if self._is_clearly_slower(lanes, other):
                self._settle(self.best, ABANDONED_BACKOFF)
            elif self._observed >= MAX_TRIAL_FACTOR * needed:
                self._settle(self.best)
        elif other in self._seconds:
            is_faster = median(measured) < _FASTER * median(self._seconds[other])
            self._settle(lanes if is_faster else other)
        else:
            self.lanes, self._observed = other, 0

    def _is_clearly_slower(self, lanes: int, other: int) -> bool:
        """Compares the count on trial with the best one, which was measured first."""
        if other not in self._seconds or len(self._seconds[lanes]) < MIN_TRIAL_ROUNDS * lanes:
            return False
        return median(self._seconds[lanes]) > _CLEARLY_SLOWER * median(self._seconds[other])

    def _settle(self, lanes: int, backoff: int = BACKOFF) -> None:
        """Keeps a lane count until the next trial."""
        if lanes != self.best:
            self._interval = 0
        self._interval = min(backoff * self._interval or RETRIAL_ROUNDS, MAX_RETRIAL_ROUNDS)
        self.best = self.lanes = lanes
        self._rounds_left = self._interval * lanes
        self._seconds.clear()
        self._observed = 0
