"""What a stage worker must do to become what the plan says: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pomona.messages.control import Pipeline


@dataclass(frozen=True, slots=True)
class Install:
    """Become the stage at ``position`` of ``pipeline``, loading what is lacking."""

    pipeline: Pipeline
    position: int


@dataclass(frozen=True, slots=True)
class Remove:
    """End this epoch here and free what only it needed."""

    epoch: int


def wanted_stages(pipelines: Iterable[Pipeline], name: str, endpoint: str) -> dict[int, Install]:
    """By epoch, the stages that the plan gives to this process."""
    return {
        pipeline.epoch: Install(pipeline, position)
        for pipeline in pipelines
        if pipeline.state != "impossible"
        for position, stage in enumerate(pipeline.stages)
        if stage.worker == name and stage.endpoint == endpoint
    }


def reconcile(wanted: dict[int, Install], present: Collection[int]) -> list[Remove | Install]:
    """What to do, in order, given the epochs that are present, loading or failed here.

    What the plan no longer names goes first, since it may hold the memory that the rest
    needs.
    """
    return [
        *(Remove(epoch) for epoch in sorted(present) if epoch not in wanted),
        *(install for epoch, install in sorted(wanted.items()) if epoch not in present),
    ]
