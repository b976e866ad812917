"""Chooses how many guessed steps to have in flight, and of how many tokens.

Let a be the probability that a guess is right. Guesses are right E = a / (1 - a) times in a row,
and each run yields one token more, sampled after the wrong guess. A step of w tokens takes the time
R(w) through all stages and M(w) in the slowest one. With d steps in flight, results follow each
other every max(M(w), R(w) / d), so a run takes

    R(w) + E / w * max(M(w), R(w) / d) + late

A source that takes G for a guess, beside the steps, makes results follow each other at least every
w * G; a lone stage makes no guess while it computes, so that its step takes w * G longer. Here
``late`` is the time for which the sampled token waits, because the first stages still compute
guesses when it arrives. Plain decoding takes R(1) for each token. The tail knows at once that a
guess is wrong and does not compute it, so its own time makes nothing late.
"""

from __future__ import annotations

from collections.abc import Sequence

_BLEND = 0.1
"""Weight of a new measurement in the moving averages."""
MIN_GAIN = 1.05
"""Ratio of speeds from which guesses are worth their energy and their disturbance."""
MAX_RATE = 0.985
"""Bound on the probability of a right guess."""
_GUESS_STEP_US = 250
"""Difference between times of a guess for which depth and width are chosen again."""


class DepthPolicy:
    """Learns step times by width.

    Args:
        stages: stages of the pipeline.
    """

    def __init__(self, stages: int) -> None:
        self._stages = stages
        self._stage_us: dict[int, list[float]] = {}
        self._hops_us = 0.0
        self._version = 0
        self._cache: dict[tuple[int, int, int, int], tuple[int, int]] = {}

    def observe(self, width: int, elapsed_us: Sequence[int], round_us: float | None) -> None:
        """Records a step.

        Args:
            width: its tokens.
            elapsed_us: compute time of each stage.
            round_us: time from its start to its result if no other step was in the pipeline.
        """
        known = self._stage_us.get(width)
        if known is None or len(known) != len(elapsed_us):
            self._stage_us[width] = [float(us) for us in elapsed_us]
        else:
            self._stage_us[width] = [
                old + _BLEND * (new - old) for old, new in zip(known, elapsed_us, strict=True)
            ]
        if round_us is not None:
            hops = max(round_us - sum(elapsed_us), 0.0)
            self._hops_us += _BLEND * (hops - self._hops_us) if self._hops_us else hops
        self._version += 1
        if self._version % 16 == 1:
            self._cache.clear()

    @property
    def head_us(self) -> float:
        """Time of a one-token step in the first stage; 0 before the first one."""
        return self._times(1)[0]

    @property
    def round_us(self) -> float:
        """Time of a one-token step through the pipeline; 0 before the first one."""
        return sum(self._times(1)) + self._hops_us

    def choose(
        self, rate: float, max_depth: int, max_width: int, guess_us: float = 0.0
    ) -> tuple[int, int]:
        """Returns the best (steps in flight, tokens a step); (1, 1) is plain decoding.

        Args:
            rate: probability that a guess is right.
            guess_us: time to make a guess, microseconds.
        """
        key = round(100 * rate), max_depth, max_width, round(guess_us / _GUESS_STEP_US)
        if key not in self._cache:
            self._cache[key] = self._best(min(rate, MAX_RATE), max_depth, max_width, guess_us)
        return self._cache[key]

    def speed(self, rate: float, depth: int, width: int, guess_us: float = 0.0) -> float:
        """Returns tokens per second, as the formula above says; 0 before the first step."""
        times = self._times(width)
        whole = sum(times) + self._hops_us
        if not whole:
            return 0.0
        if depth == 1 and width == 1:
            return 1e6 / whole
        right = rate / (1 - rate)
        if len(times) == 1:
            whole += width * guess_us
        slot = max(*times, whole / depth, width * guess_us)
        late = 0.0
        if len(times) > 1:
            late = min(max(depth * max(times[:-1]) - whole, 0.0), max(times[:-1]))
        return 1e6 * (1 + right) / (whole + right / width * slot + late)

    def _best(
        self, rate: float, max_depth: int, max_width: int, guess_us: float
    ) -> tuple[int, int]:
        if not self._stage_us:
            return 1, 1
        best, choice = MIN_GAIN * self.speed(rate, 1, 1), (1, 1)
        width = 1
        while width <= max_width:
            for depth in range(1, max_depth + 1):
                speed = self.speed(rate, depth, width, guess_us)
                if speed > best * 1.0001:
                    best, choice = speed, (depth, width)
            width *= 2
        return choice

    def _times(self, width: int) -> list[float]:
        """Returns the stage times of the width, or of the next smaller one that was measured."""
        known = [w for w in self._stage_us if w <= width]
        return self._stage_us[max(known)] if known else [0.0] * self._stages
