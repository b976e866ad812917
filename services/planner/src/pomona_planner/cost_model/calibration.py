"""Correction of predicted costs by the measured times of a pipeline's steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pomona.messages.control import Pipeline, StageStatus

NEW_WEIGHT = 0.5
"""Weight of a new measurement in the moving average."""
MIN_GUESSES = 64
"""Guesses that were sent before their acceptance counts."""


@dataclass(slots=True, kw_only=True)
class Calibration:
    """Correction factors, each measured over predicted time.

    Attributes:
        stages: by the name of the worker.
        tail: further factor of the vocabulary head and the sampler; None before a measurement.
        links: factor of all links of a pipeline together.
        acceptance: share of right guesses; None before enough were made.
    """

    stages: dict[str, float] = field(default_factory=dict[str, float])
    tail: float | None = None
    links: float = 1.0
    acceptance: float | None = None

    def update(self, pipeline: Pipeline, statuses: Sequence[StageStatus | None]) -> None:
        """Adjusts the factors to a pipeline's measured step times.

        Does nothing before all stages have measured a step. Predicted times already contain the
        factors of ``pipeline.prediction``, which are taken out before the comparison.

        Args:
            statuses: one for each stage; None where the worker has not reported it.
        """
        self._observe_guesses(statuses)
        prediction = pipeline.prediction
        measured = [status for status in statuses if status is not None and status.decode_us > 0]
        if prediction is None or len(measured) < len(pipeline.stages):
            return
        tail_us = measured[-1].tail_us
        if not prediction.tail_us or tail_us >= measured[-1].decode_us:
            tail_us = 0.0
        for number, (stage, status) in enumerate(zip(pipeline.stages, measured, strict=True)):
            used = prediction.corrections[number] if prediction.corrections else 1.0
            measured_us, predicted_us = status.decode_us, prediction.stage_us[number]
            if tail_us and number == len(measured) - 1:
                measured_us, predicted_us = measured_us - tail_us, predicted_us - prediction.tail_us
                tail_factor = tail_us / prediction.tail_us * prediction.tail_correction
                self.tail = _averaged(self.tail, tail_factor * predicted_us / measured_us)
            factor = measured_us * used / predicted_us
            self.stages[stage.worker] = _averaged(self.stages.get(stage.worker), factor)
        steps_us = sum(status.decode_us for status in measured)
        predicted_us = sum(prediction.link_us) / (prediction.link_correction or 1.0)
        if measured[0].token_us > steps_us and predicted_us > 0:
            factor = (measured[0].token_us - steps_us) / predicted_us
            self.links = _averaged(self.links, factor)

    def _observe_guesses(self, statuses: Sequence[StageStatus | None]) -> None:
        head = statuses[0] if statuses else None
        guesses = None if head is None else head.speculation
        if guesses is not None and guesses.drafted >= MIN_GUESSES:
            self.acceptance = guesses.accepted / guesses.drafted


def _averaged(old: float | None, new: float) -> float:
    return new if old is None else old + NEW_WEIGHT * (new - old)
