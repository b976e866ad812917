"""The most tokens of a step with guesses that is exact in every stage of a pipeline. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pomona.messages.control import Beacon, Pipeline, StageStatus, StageWorkerFacts


def common_width(pipeline: Pipeline, own_width: int, beacons: Iterable[Beacon]) -> int:
    """Returns the smallest width of the stages; 1 until every other stage reported its own.

    Args:
        own_width: width of the first stage.
        beacons: newest beacon of each stage worker.
    """
    reported = {
        status.start: status.max_width
        for beacon in beacons
        if isinstance(beacon.facts, StageWorkerFacts)
        for status in beacon.facts.stages
        if _is_stage(status, pipeline)
    }
    others = (reported.get(stage.start, 1) for stage in pipeline.stages[1:])
    return min(own_width, *others, own_width)


def _is_stage(status: StageStatus, pipeline: Pipeline) -> bool:
    return status.state == "ready" and (status.model, status.epoch) == (
        pipeline.model,
        pipeline.epoch,
    )
