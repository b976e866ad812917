"""What a cluster is doing, read from its beacons: pure.

``cluster_report`` is what ``pomona status`` prints; its JSON form is the dataclass itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pomona.messages.control import (
    Alert,
    Beacon,
    DiscoveryFacts,
    GatewayFacts,
    Hardware,
    HealthWatcherFacts,
    Pipeline,
    PlannerFacts,
    Stage,
    StageStatus,
    StageWorkerFacts,
)

ClusterState = Literal["serving", "degraded", "absent"]


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A machine; without hardware when its discovery service says nothing."""

    name: str
    hardware: Hardware | None
    peers: int


@dataclass(frozen=True, slots=True)
class ServiceReport:
    name: str
    service: str
    node: str
    pid: int
    state: str
    version: str
    endpoints: dict[str, str]


@dataclass(frozen=True, slots=True)
class StageReport:
    """A stage of the plan, and what its worker says of it.

    Attributes:
        state: ``loading``, ``ready`` or ``failed``; ``waiting`` when the worker has not
            begun it, ``lost`` when no such worker is heard.
        loaded_bytes, total_bytes: weights of this stage in memory, and when it is complete.
        resident_bytes: resident memory of the worker's process, all its stages together.
        cache_bytes: KV caches in the worker.
        error: why it failed.
    """

    worker: str
    node: str
    pid: int
    start: int
    stop: int
    state: str
    loaded_bytes: int
    total_bytes: int
    resident_bytes: int
    cache_bytes: int
    error: str


@dataclass(frozen=True, slots=True)
class PipelineReport:
    """Attributes:
    state: as the planner has it: ``forming``, ``active`` or ``impossible``.
    proven: a gateway got a real token through this epoch.
    """

    model: str
    epoch: int
    state: str
    reason: str
    layer_count: int
    proven: bool
    stages: tuple[StageReport, ...]


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """Attributes:
    state: ``serving`` when every pipeline answers and no service is missing, ``degraded``
        when something is wrong (``troubles`` says what), ``absent`` when nobody speaks.
    users: requests running in all gateways.
    """

    cluster: str
    state: ClusterState
    troubles: tuple[str, ...]
    urls: tuple[str, ...]
    nodes: tuple[NodeReport, ...]
    services: tuple[ServiceReport, ...]
    pipelines: tuple[PipelineReport, ...]
    alerts: tuple[Alert, ...]
    users: int
    tokens_per_second: float


def cluster_report(cluster: str, beacons: Iterable[Beacon]) -> ClusterReport:
    """The newest beacon of each service, as one picture."""
    heard = sorted(beacons, key=lambda beacon: beacon.name)
    pipelines = tuple(_pipeline(pipeline, heard) for pipeline in _planned(heard))
    alerts = {
        alert.key: alert
        for beacon in heard
        if isinstance(beacon.facts, HealthWatcherFacts)
        for alert in beacon.facts.alerts
    }
    troubles = tuple(_troubles(heard, pipelines, alerts.values()))
    gateways = [b.facts for b in heard if isinstance(b.facts, GatewayFacts)]
    workers = [b.facts for b in heard if isinstance(b.facts, StageWorkerFacts)]
    return ClusterReport(
        cluster=cluster,
        state="absent" if not heard else "degraded" if troubles else "serving",
        troubles=troubles,
        urls=tuple(gateway.url for gateway in gateways),
        nodes=tuple(_node(name, heard) for name in sorted({beacon.node for beacon in heard})),
        services=tuple(
            ServiceReport(
                beacon.name,
                beacon.facts.service,
                beacon.node,
                beacon.pid,
                beacon.state,
                beacon.version,
                beacon.endpoints,
            )
            for beacon in heard
        ),
        pipelines=pipelines,
        alerts=tuple(sorted(alerts.values(), key=lambda alert: alert.since)),
        users=sum(gateway.running for gateway in gateways),
        tokens_per_second=round(sum(worker.tokens_per_second for worker in workers), 2),
    )


def _planned(beacons: Iterable[Beacon]) -> list[Pipeline]:
    """The newest plan of each model."""
    newest: dict[str, Pipeline] = {}
    for beacon in beacons:
        if isinstance(beacon.facts, PlannerFacts):
            for pipeline in beacon.facts.pipelines:
                known = newest.get(pipeline.model)
                if known is None or pipeline.epoch > known.epoch:
                    newest[pipeline.model] = pipeline
    return list(newest.values())


def _node(name: str, beacons: Iterable[Beacon]) -> NodeReport:
    for beacon in beacons:
        if beacon.node == name and isinstance(beacon.facts, DiscoveryFacts):
            return NodeReport(name, beacon.facts.hardware, len(beacon.facts.peers))
    return NodeReport(name, None, 0)


def _pipeline(pipeline: Pipeline, beacons: Iterable[Beacon]) -> PipelineReport:
    heard = list(beacons)
    return PipelineReport(
        model=pipeline.model,
        epoch=pipeline.epoch,
        state=pipeline.state,
        reason=pipeline.reason,
        layer_count=pipeline.layer_count,
        proven=any(
            beacon.facts.proven_epochs.get(pipeline.model) == pipeline.epoch
            for beacon in heard
            if isinstance(beacon.facts, GatewayFacts) and beacon.state == "ready"
        ),
        stages=tuple(_stage(stage, pipeline, heard) for stage in pipeline.stages),
    )


def _stage(stage: Stage, pipeline: Pipeline, beacons: Iterable[Beacon]) -> StageReport:
    for beacon in beacons:
        facts = beacon.facts
        if beacon.name != stage.worker or not isinstance(facts, StageWorkerFacts):
            continue
        status = stage_status(facts, pipeline)
        return StageReport(
            worker=stage.worker,
            node=beacon.node,
            pid=beacon.pid,
            start=stage.start,
            stop=stage.stop,
            state=status.state if status else "waiting",
            loaded_bytes=status.loaded_bytes if status else 0,
            total_bytes=status.total_bytes if status else 0,
            resident_bytes=facts.resident_bytes,
            cache_bytes=facts.cache_bytes,
            error=status.error if status else "",
        )
    return StageReport(stage.worker, "", 0, stage.start, stage.stop, "lost", 0, 0, 0, 0, "")


def stage_status(facts: StageWorkerFacts, pipeline: Pipeline) -> StageStatus | None:
    """What a worker says of its stage in this epoch of a pipeline."""
    for status in facts.stages:
        if status.model == pipeline.model and status.epoch == pipeline.epoch:
            return status
    return None


def _troubles(
    beacons: Iterable[Beacon], pipelines: Iterable[PipelineReport], alerts: Iterable[Alert]
) -> Iterable[str]:
    """Everything that keeps the cluster from being called serving, in words."""
    heard = list(beacons)
    for service in ("discovery", "planner", "gateway", "health_watcher"):
        if not any(beacon.facts.service == service for beacon in heard):
            yield f"no {service.replace('_', ' ')} is heard"
    for beacon in heard:
        if beacon.state != "ready":
            yield f"{beacon.name} is {beacon.state}"
    planned = list(pipelines)
    if not planned:
        yield "no model is planned"
    for pipeline in planned:
        if pipeline.state != "active":
            reason = f": {pipeline.reason}" if pipeline.reason else ""
            yield f"{pipeline.model} is {pipeline.state}{reason}"
        elif not pipeline.proven:
            yield f"{pipeline.model} has not produced a token in epoch {pipeline.epoch} yet"
        for stage in pipeline.stages:
            if stage.state != "ready":
                said = f": {stage.error}" if stage.error else ""
                yield f"layers [{stage.start}, {stage.stop}) on {stage.worker}: {stage.state}{said}"
    for alert in alerts:
        if alert.severity == "critical":
            yield alert.summary
