"""What a stage worker must do to become what the plan says: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pomona.messages.control import Pipeline


@dataclass(frozen=True, slots=True)
class Install:
    """Become the stage at ``position`` of ``pipeline``, loading what is lacking."""

    pipeline: Pipeline
    position: int


@dataclass(frozen=True, slots=True)
class Resize:
    """Go on with ``install.pipeline``, whose caches may hold more or less than before."""

    install: Install


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


def reconcile(
    wanted: Mapping[int, Install], present: Mapping[int, Install]
) -> list[Remove | Resize | Install]:
    """What to do, in order, given what is present, loading or failed here, by epoch.

    What the plan no longer names goes first, since it may hold the memory that the rest
    needs.
    """
    return [
        *(Remove(epoch) for epoch in sorted(present) if epoch not in wanted),
        *(
            Resize(wanted[epoch])
            for epoch, install in sorted(present.items())
            if epoch in wanted
            and wanted[epoch].pipeline.cache_tokens != install.pipeline.cache_tokens
        ),
        *(install for epoch, install in sorted(wanted.items()) if epoch not in present),
    ]
