"""Costs corrected by what a pipeline's steps took."""

from __future__ import annotations

from collections.abc import Sequence

from pomona.messages.control import Pipeline, StageStatus
from pomona_planner.sight import Learnt

ENOUGH = 0.5
"""Weight of a new measurement against what was learnt before."""


def learn(learnt: Learnt, pipeline: Pipeline, statuses: Sequence[StageStatus | None]) -> None:
    """Correct the costs of the pipeline's workers and links. Args: statuses: of its stages."""
    prediction = pipeline.prediction
    if prediction is None:
        return
    measured_us = whole_us = 0.0
    for number, (stage, status) in enumerate(zip(pipeline.stages, statuses, strict=True)):
        if status is None or status.decode_us == 0:
            return
        measured_us += status.decode_us
        whole_us = whole_us or status.token_us
        used = prediction.corrections[number] if prediction.corrections else 1.0
        found = status.decode_us * used / prediction.stage_us[number]
        learnt.stages[stage.worker] = _between(learnt.stages.get(stage.worker), found)
    predicted_us = sum(prediction.link_us) / (prediction.link_correction or 1.0)
    if whole_us > measured_us and predicted_us > 0:
        learnt.links = _between(learnt.links, (whole_us - measured_us) / predicted_us)


def _between(old: float | None, new: float) -> float:
    return new if old is None else old + ENOUGH * (new - old)
