"""Pipelines that the workers' beacons state, which a planner adopts. Pure.

The cluster's state is in its beacons. A planner that has lost its file, or has an older one, goes
on with what the workers run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pomona.messages.control import Beacon, Pipeline, StageStatus, StageWorkerFacts


def reported_pipelines(workers: Sequence[Beacon]) -> list[Pipeline]:
    """Returns the pipelines that heads report and whose stages are all loaded or loading, one for
    each source: the one with the highest epoch."""
    by_name = {worker.name: worker for worker in workers}
    found: dict[str, Pipeline] = {}
    for worker in workers:
        for pipeline in _facts(worker).pipelines:
            newest = found.get(pipeline.source)
            is_newer = newest is None or pipeline.epoch > newest.epoch
            if is_newer and _is_healthy(pipeline, by_name):
                found[pipeline.source] = pipeline
    return list(found.values())


def adopted(current: Pipeline, reported: Iterable[Pipeline]) -> Pipeline | None:
    """Returns the reported pipeline to continue instead of the current one, or None.

    That is one of a later epoch, or of the same one with other stages: the workers run it.
    """
    for pipeline in reported:
        if pipeline.source != current.source:
            continue
        is_other = pipeline.epoch == current.epoch and pipeline.stages != current.stages
        if pipeline.epoch > current.epoch or is_other:
            return pipeline
    return None


def is_confirmed(pipeline: Pipeline, workers: Sequence[Beacon]) -> bool:
    """Returns whether every stage of the pipeline is held, in its epoch, by the worker it names."""
    by_name = {worker.name: worker for worker in workers}
    return bool(pipeline.stages) and _is_healthy(pipeline, by_name)


def obeyed_epoch(source: str, worker: Beacon) -> int:
    """Highest epoch of a model that the worker was told; 0 before the first."""
    return _facts(worker).obeyed_epochs.get(source, 0)


def is_unused(worker: Beacon) -> bool:
    """Returns whether the worker's process never held a stage."""
    return _facts(worker).highest_epoch == 0


def _is_healthy(pipeline: Pipeline, by_name: dict[str, Beacon]) -> bool:
    for stage in pipeline.stages:
        worker = by_name.get(stage.worker)
        if worker is None or worker.endpoints.get("data") != stage.endpoint:
            return False
        if stage.boot not in ("", worker.boot):
            return False
        facts = _facts(worker)
        status = _status(facts, pipeline.epoch)
        if status is None or facts.broken_epoch == pipeline.epoch:
            return False
        if (status.start, status.stop) != (stage.start, stage.stop) or status.state == "failed":
            return False
    return bool(pipeline.stages)


def _status(facts: StageWorkerFacts, epoch: int) -> StageStatus | None:
    return next((status for status in facts.stages if status.epoch == epoch), None)


def _facts(worker: Beacon) -> StageWorkerFacts:
    assert isinstance(worker.facts, StageWorkerFacts)
    return worker.facts
