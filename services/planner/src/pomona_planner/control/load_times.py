"""Times of loading layers, from which the pause of a changed plan is estimated. Pure.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pomona.messages.control import Beacon, Stage, StageWorkerFacts
from pomona.models import ModelFacts
from pomona_planner.cost_model.memory import weight_bytes

ASSUMED_BYTES_PER_S: Final = 1e9
"""Rate of loading before one was measured: reading a Mac's disk, with the copy into MLX."""
FIXED_S: Final = 1.0
"""Time of a change of plan beside the loading: noticing it, warming up, sending prompts again."""


class LoadTimes:
    """Measures how fast the pipeline of a model is loaded."""

    def __init__(self, facts: ModelFacts) -> None:
        self._facts = facts
        self._bytes_per_s = ASSUMED_BYTES_PER_S
        self._begun: tuple[float, int] | None = None

    def begin(
        self, held: Sequence[Stage], stages: Sequence[Stage], workers: Sequence[Beacon], now: float
    ) -> None:
        """Records that workers begin to load ``stages`` beside those that they hold."""
        self._begun = (now, self.most_bytes(held, stages, workers))

    def finish(self, now: float) -> None:
        """Records that all stages are loaded."""
        if self._begun is not None:
            at, size = self._begun
            seconds = now - at - FIXED_S
            if size and seconds > 0:
                self._bytes_per_s = size / seconds
            self._begun = None

    def pause_s(
        self, held: Sequence[Stage], stages: Sequence[Stage], workers: Sequence[Beacon]
    ) -> float:
        """Estimates the seconds in which workers that hold ``held`` load ``stages``."""
        return FIXED_S + self.most_bytes(held, stages, workers) / self._bytes_per_s

    def most_bytes(
        self, held: Sequence[Stage], stages: Sequence[Stage], workers: Sequence[Beacon]
    ) -> int:
        """Returns the bytes that the slowest worker has to load."""
        kept = {stage.worker: range(stage.start, stage.stop) for stage in held}
        full = {
            worker.name
            for worker in workers
            if isinstance(worker.facts, StageWorkerFacts) and worker.facts.device != "metal"
        }
        most = 0
        for stage in stages:
            size = weight_bytes(self._facts, stage.start, stage.stop, stage.worker in full)
            layers = [x for x in range(stage.start, stage.stop) if x in kept.get(stage.worker, ())]
            share = 1 - len(layers) / max(stage.stop - stage.start, 1)
            most = max(most, int(size * share))
        return most
