"""Compares the plan with the present stages and returns the actions that lead to it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pomona.messages.control import Pipeline
from pomona.messages.limits import MAX_PIPELINES


@dataclass(frozen=True, slots=True)
class Install:
    """Load and run the stage at ``position`` of ``pipeline``."""

    pipeline: Pipeline
    position: int


@dataclass(frozen=True, slots=True)
class Resize:
    """Go on with the same stage; the capacity of its caches has changed."""

    install: Install


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the stage of this epoch."""

    epoch: int


def wanted_stages(pipelines: Iterable[Pipeline], name: str, endpoint: str) -> dict[int, Install]:
    """Returns the stages that the plan gives to this process, by epoch.

    Args:
        endpoint: data endpoint of this process. A stage that names another one is meant for an
            earlier process of the same name.
    """
    return {
        pipeline.epoch: Install(pipeline, position)
        for pipeline in pipelines
        if pipeline.state != "impossible"
        for position, stage in enumerate(pipeline.stages)
        if stage.worker == name and stage.endpoint == endpoint
    }


def accept_plan(
    pipelines: Iterable[Pipeline], obeyed: Mapping[str, int], present: Mapping[int, Install]
) -> tuple[list[Pipeline], dict[str, int]]:
    """Returns the pipelines to obey, and the highest epoch obeyed of each model, by source.

    A pipeline of a lower epoch comes from a planner that has lost its memory, or was replaced: the
    present one of that model goes on. The same epoch may come back after an empty plan.
    """
    accepted: list[Pipeline] = []
    highest = dict(obeyed)
    by_source = {x.source: x for x in sorted(pipelines, key=lambda pipeline: pipeline.epoch)}
    for source, pipeline in by_source.items():
        if pipeline.epoch < highest.get(source, 0):
            accepted += (x.pipeline for x in present.values() if x.pipeline.source == source)
        else:
            accepted.append(pipeline)
            if pipeline.epoch:
                highest[source] = pipeline.epoch
    newest = sorted(highest.items(), key=lambda entry: entry[1])[-MAX_PIPELINES:]
    return accepted, dict(newest)


def reconcile(
    wanted: Mapping[int, Install], present: Mapping[int, Install]
) -> list[Remove | Resize | Install]:
    """Returns the actions in order.

    Removals come first, since their memory may be needed by the rest.

    Args:
        present: stages that are loading, ready or failed here, by epoch.
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
