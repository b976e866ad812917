"""Costs corrected by what a pipeline's steps took."""

from __future__ import annotations

from collections.abc import Sequence

from pomona.messages.control import Pipeline, StageStatus
from pomona_planner.cluster.from_beacons import Calibration

ENOUGH = 0.5
"""Weight of a new measurement against what was learnt before."""


def learn(learnt: Calibration, pipeline: Pipeline, statuses: Sequence[StageStatus | None]) -> None:
    """Correct the costs of the pipeline's workers and links, and of the vocabulary head. Args:
    statuses: of its stages."""
    said = pipeline.prediction
    measured = [status for status in statuses if status is not None and status.decode_us > 0]
    if said is None or len(measured) < len(pipeline.stages):
        return
    tail_us = measured[-1].tail_us
    if not said.tail_us or tail_us >= measured[-1].decode_us:
        tail_us = 0.0
    for number, (stage, status) in enumerate(zip(pipeline.stages, measured, strict=True)):
        used = said.corrections[number] if said.corrections else 1.0
        took_us, predicted_us = status.decode_us, said.stage_us[number]
        if tail_us and number == len(measured) - 1:
            took_us, predicted_us = took_us - tail_us, predicted_us - said.tail_us
            found = tail_us / said.tail_us * said.tail_correction * predicted_us / took_us
            learnt.tail = _between(learnt.tail, found)
        found = took_us * used / predicted_us
        learnt.stages[stage.worker] = _between(learnt.stages.get(stage.worker), found)
    steps_us = sum(status.decode_us for status in measured)
    predicted_us = sum(said.link_us) / (said.link_correction or 1.0)
    if measured[0].token_us > steps_us and predicted_us > 0:
        learnt.links = _between(learnt.links, (measured[0].token_us - steps_us) / predicted_us)


def _between(old: float | None, new: float) -> float:
    return new if old is None else old + ENOUGH * (new - old)
