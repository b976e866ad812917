"""Derives the state of a cluster from its beacons. Pure.

``pomona status`` prints the :class:`ClusterReport`, and the gateway serves it; the JSON form is the
dataclass itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from pomona.expected_links import ExpectedLink, expected_link
from pomona.messages.control import (
    Alert,
    Beacon,
    GatewayFacts,
    GroupStatus,
    HealthWatcherFacts,
    NodeDrain,
    Pipeline,
    PlannerFacts,
    Prediction,
    RequestProgress,
    SpeculationStatus,
    Stage,
    StageStatus,
    StageWorkerFacts,
    WantedModel,
)
from pomona.messages.discovery import (
    DiscoveryFacts,
    Hardware,
    LinkFacts,
    NodeFacts,
)
from pomona.messages.placement import Placement
from pomona_ops.cluster.reachable_urls import reachable_urls

ClusterState = Literal["serving", "degraded", "absent"]

_WITHOUT: Final = {
    "discovery": "",
    "planner": ": answers go on, but no model is loaded and no lost stage replaced",
    "gateway": ": no request is answered until it is back",
    "health_watcher": ": faults are not reported",
}
"""Effect of a missing service, by its kind."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A machine.

    Attributes:
        hardware: None without a beacon from its discovery service.
        links: the links from it to other nodes, as it measured them.
        troubles: problems that its discovery service reports.
        expected: what each of the links should give.
    """

    name: str
    hardware: Hardware | None
    peers: int
    machine: NodeFacts = field(default_factory=NodeFacts)
    links: tuple[LinkFacts, ...] = ()
    troubles: tuple[str, ...] = ()
    expected: tuple[ExpectedLink, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """A stage worker's process: all its stages together.

    Attributes:
        usable_bytes: memory available to its weights and caches.
        weight_bytes: weights in memory.
        cache_bytes: KV caches and kept prefixes.
        prefix_bytes: the part of ``cache_bytes`` for kept prefixes.
        steps, compute_us: steps run, and microseconds of computing, since it started.
        step_tokens: tokens of the step that runs; on a head, of all steps in the pipeline.
        sequences, prefixes, lanes, waiting: as in its beacon.
    """

    name: str
    node: str
    device: str
    usable_bytes: int
    weight_bytes: int
    cache_bytes: int
    prefix_bytes: int
    footprint_bytes: int
    steps: int
    compute_us: int
    step_tokens: int
    sequences: int
    prefixes: int
    lanes: int
    waiting: int
    tokens_per_second: float


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
    """A stage of the plan, with its state in its worker.

    Attributes:
        state: ``loading``, ``ready`` or ``failed``; ``waiting`` before the worker starts to load
            it, ``lost`` without a beacon from the worker.
        loaded_bytes, total_bytes: weights of this stage in memory, now and when it is loaded.
        resident_bytes: resident memory of the worker's process, all its stages together.
        footprint_bytes: memory that the system charges to that process.
        active_bytes, cached_bytes: memory of MLX's arrays there, and kept buffers.
        cache_bytes: KV caches in the worker.
        error: the reason for ``failed``.
        fetched_bytes, fetch_bytes: weights that were missing on the machine: fetched, and in all.
        predicted_us, decode_us: time of one token of one user in this stage, microseconds,
            predicted by the planner and measured; 0 when unknown.
        group: ranks, backend and memory of the tensor group that holds it; None without one.
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
    predicted_us: float = 0.0
    decode_us: float = 0.0
    fetched_bytes: int = 0
    fetch_bytes: int = 0
    footprint_bytes: int = 0
    active_bytes: int = 0
    cached_bytes: int = 0
    group: GroupStatus | None = None


@dataclass(frozen=True, slots=True)
class PipelineReport:
    """Attributes:
    source: what every worker loads: a folder, a file, or a hub id with its commit.
    state: the planner's: ``forming``, ``active`` or ``impossible``.
    proven: a gateway has received a token through this epoch.
    prediction: the planner's.
    measured_tokens_per_second: for one user alone, measured by the head; 0 before that.
    proposal: a better plan; empty without one.
    speculation: guessed tokens, counted by the head; None before it is loaded.
    """

    model: str
    epoch: int
    state: str
    reason: str
    layer_count: int
    proven: bool
    stages: tuple[StageReport, ...]
    source: str = ""
    prediction: Prediction | None = None
    measured_tokens_per_second: float = 0.0
    proposal: str = ""
    speculation: SpeculationStatus | None = None


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """Attributes:
    urls: of the APIs, as ``node`` reaches them; none for one that only its own machine reaches.
    state: ``serving`` when every pipeline is proven and no service is missing, ``degraded`` when
        there are ``troubles``, ``absent`` without any beacon.
    users: requests running in all gateways.
    requests: progress of those that have run longest, oldest first.
    unloaded: models that were unloaded on request.
    workers: each stage worker's memory and work.
    models: every model that the planner knows, to be loaded or not.
    drains: the planner's latest decision on each node that was to be drained.
    placement: the operator's choices for machines, as the planner has taken them.
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
    requests: tuple[RequestProgress, ...] = ()
    unloaded: tuple[str, ...] = ()
    workers: tuple[WorkerReport, ...] = ()
    models: tuple[WantedModel, ...] = ()
    drains: tuple[NodeDrain, ...] = ()
    placement: Placement = field(default_factory=Placement)


def cluster_report(cluster: str, beacons: Iterable[Beacon], node: str = "") -> ClusterReport:
    """Combines the newest beacons of all services.

    Args:
        node: name of the machine for which the URLs are.
    """
    newest = sorted(beacons, key=lambda beacon: beacon.name)
    pipelines = tuple(_pipeline(pipeline, newest) for pipeline in _planned(newest))
    alerts = {
        alert.key: alert
        for beacon in newest
        if isinstance(beacon.facts, HealthWatcherFacts)
        for alert in beacon.facts.alerts
    }
    troubles = tuple(_troubles(newest, pipelines, alerts.values()))
    gateways = [b.facts for b in newest if isinstance(b.facts, GatewayFacts)]
    workers = [b.facts for b in newest if isinstance(b.facts, StageWorkerFacts)]
    return ClusterReport(
        cluster=cluster,
        state="absent" if not newest else "degraded" if troubles else "serving",
        troubles=troubles,
        urls=reachable_urls(newest, node),
        nodes=tuple(_node(name, newest) for name in sorted({beacon.node for beacon in newest})),
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
            for beacon in newest
        ),
        pipelines=pipelines,
        alerts=tuple(sorted(alerts.values(), key=lambda alert: alert.since)),
        users=sum(gateway.running for gateway in gateways),
        tokens_per_second=round(sum(worker.tokens_per_second for worker in workers), 2),
        requests=tuple(
            sorted((r for g in gateways for r in g.oldest), key=lambda r: r.age_s, reverse=True)
        ),
        unloaded=_unloaded(newest),
        workers=tuple(_workers(newest)),
        models=_known_models(newest),
        drains=newest_drains(newest),
        placement=max(
            (b.facts.placement for b in newest if isinstance(b.facts, PlannerFacts)),
            key=lambda x: x.at,
            default=Placement(),
        ),
    )


def newest_drains(beacons: Iterable[Beacon]) -> tuple[NodeDrain, ...]:
    """Returns the newest decision on each node that was to be drained, by name."""
    newest: dict[str, NodeDrain] = {}
    for beacon in beacons:
        if isinstance(beacon.facts, PlannerFacts):
            for drain in beacon.facts.drains:
                known = newest.get(drain.node)
                if known is None or drain.at > known.at:
                    newest[drain.node] = drain
    return tuple(sorted(newest.values(), key=lambda drain: drain.node))


def _workers(beacons: Iterable[Beacon]) -> Iterable[WorkerReport]:
    for beacon in beacons:
        facts = beacon.facts
        if isinstance(facts, StageWorkerFacts):
            yield WorkerReport(
                name=beacon.name,
                node=beacon.node,
                device=facts.device,
                usable_bytes=facts.usable_memory_bytes,
                weight_bytes=sum(stage.loaded_bytes for stage in facts.stages),
                cache_bytes=facts.cache_bytes,
                prefix_bytes=facts.prefix_bytes,
                footprint_bytes=facts.footprint_bytes or facts.resident_bytes,
                steps=beacon.progress,
                compute_us=facts.compute_us,
                step_tokens=facts.step_tokens,
                sequences=facts.sequences,
                prefixes=facts.prefixes,
                lanes=facts.lanes,
                waiting=facts.waiting,
                tokens_per_second=facts.tokens_per_second,
            )


def _known_models(beacons: Iterable[Beacon]) -> tuple[WantedModel, ...]:
    """Returns the newest decision on each model, by source."""
    newest: dict[str, WantedModel] = {}
    for beacon in beacons:
        if isinstance(beacon.facts, PlannerFacts):
            for model in beacon.facts.models:
                known = newest.get(model.source)
                if known is None or model.at > known.at:
                    newest[model.source] = model
    return tuple(sorted(newest.values(), key=lambda model: model.name))


def _planned(beacons: Iterable[Beacon]) -> list[Pipeline]:
    """The plan with the highest epoch of each model; while no planner is heard, what the heads of
    pipelines state."""
    newest = list(beacons)
    is_planner = any(isinstance(beacon.facts, PlannerFacts) for beacon in newest)
    plans: dict[str, Pipeline] = {}
    for beacon in newest:
        facts = beacon.facts
        if isinstance(facts, PlannerFacts) or (
            isinstance(facts, StageWorkerFacts) and not is_planner
        ):
            for pipeline in facts.pipelines:
                known = plans.get(pipeline.model)
                if known is None or pipeline.epoch > known.epoch:
                    plans[pipeline.model] = pipeline
    return list(plans.values())


def _unloaded(beacons: Iterable[Beacon]) -> tuple[str, ...]:
    return tuple(
        model.name
        for beacon in beacons
        if isinstance(beacon.facts, PlannerFacts)
        for model in beacon.facts.models
        if not model.loaded
    )


def _node(name: str, beacons: Iterable[Beacon]) -> NodeReport:
    newest = list(beacons)
    machines = {b.node: b.facts.machine for b in newest if isinstance(b.facts, DiscoveryFacts)}
    for beacon in newest:
        if beacon.node == name and isinstance(beacon.facts, DiscoveryFacts):
            facts = beacon.facts
            return NodeReport(
                name,
                facts.hardware,
                len(facts.peers),
                facts.machine,
                facts.links,
                facts.troubles,
                tuple(
                    expected_link(link, facts.machine, machines.get(link.node, NodeFacts()))
                    for link in facts.links
                ),
            )
    return NodeReport(name, None, 0)


def _pipeline(pipeline: Pipeline, beacons: Iterable[Beacon]) -> PipelineReport:
    newest = list(beacons)
    return PipelineReport(
        model=pipeline.model,
        epoch=pipeline.epoch,
        state=pipeline.state,
        reason=pipeline.reason,
        layer_count=pipeline.layer_count,
        proven=any(
            beacon.facts.proven_epochs.get(pipeline.model) == pipeline.epoch
            for beacon in newest
            if isinstance(beacon.facts, GatewayFacts) and beacon.state == "ready"
        ),
        stages=tuple(
            _stage(stage, number, pipeline, newest) for number, stage in enumerate(pipeline.stages)
        ),
        source=pipeline.source,
        prediction=pipeline.prediction,
        measured_tokens_per_second=_measured(pipeline, newest),
        proposal=pipeline.proposal,
        speculation=_speculation(pipeline, newest),
    )


def _measured(pipeline: Pipeline, beacons: Iterable[Beacon]) -> float:
    """Tokens per second of one user, from the head's time between tokens; 0 when unknown."""
    for beacon in beacons:
        if isinstance(beacon.facts, StageWorkerFacts):
            status = stage_status(beacon.facts, pipeline)
            if status is not None and status.token_us > 0:
                return round(1e6 / status.token_us, 2)
    return 0.0


def _speculation(pipeline: Pipeline, beacons: Iterable[Beacon]) -> SpeculationStatus | None:
    for beacon in beacons:
        if isinstance(beacon.facts, StageWorkerFacts):
            status = stage_status(beacon.facts, pipeline)
            if status is not None and status.speculation is not None:
                return status.speculation
    return None


def _stage(stage: Stage, number: int, pipeline: Pipeline, beacons: Iterable[Beacon]) -> StageReport:
    prediction = pipeline.prediction
    expected = prediction.stage_us[number : number + 1] if prediction is not None else ()
    predicted_us = sum(expected)
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
            predicted_us=predicted_us,
            decode_us=status.decode_us if status else 0.0,
            fetched_bytes=status.fetched_bytes if status else 0,
            fetch_bytes=status.fetch_bytes if status else 0,
            footprint_bytes=facts.footprint_bytes or facts.resident_bytes,
            active_bytes=facts.active_bytes,
            cached_bytes=facts.cached_bytes,
            group=status.group if status else None,
        )
    return StageReport(stage.worker, "", 0, stage.start, stage.stop, "lost", 0, 0, 0, 0, "")


def stage_status(facts: StageWorkerFacts, pipeline: Pipeline) -> StageStatus | None:
    """Returns the worker's status of its stage in this epoch of a pipeline."""
    for status in facts.stages:
        if status.model == pipeline.model and status.epoch == pipeline.epoch:
            return status
    return None


def _troubles(
    beacons: Iterable[Beacon], pipelines: Iterable[PipelineReport], alerts: Iterable[Alert]
) -> Iterable[str]:
    """Yields every reason why the cluster is not ``serving``."""
    newest = list(beacons)
    for service in ("discovery", "planner", "gateway", "health_watcher"):
        if not any(beacon.facts.service == service for beacon in newest):
            yield f"no beacon from any {service.replace('_', ' ')}{_WITHOUT[service]}"
    planned = list(pipelines)
    for beacon in newest:
        facts = beacon.facts
        # A gateway is ready when it can serve a model; without one there is nothing to wait for.
        is_idle = isinstance(facts, GatewayFacts) and beacon.state == "starting" and not planned
        if beacon.state != "ready" and not is_idle:
            reason = facts.unusable_reason if isinstance(facts, StageWorkerFacts) else ""
            yield f"{beacon.name} is {beacon.state}{f': {reason}' if reason else ''}"
    planners = [beacon.facts for beacon in newest if isinstance(beacon.facts, PlannerFacts)]
    if planners and not planned:
        yield _nothing_loaded(newest, planners)
    for pipeline in planned:
        if pipeline.state != "active":
            reason = f": {pipeline.reason}" if pipeline.reason else ""
            yield f"{pipeline.model} is {pipeline.state}{reason}"
        elif not pipeline.proven:
            yield f"{pipeline.model} has not produced a token in epoch {pipeline.epoch} yet"
        for stage in pipeline.stages:
            if stage.state != "ready":
                yield _stage_trouble(stage)
    for alert in alerts:
        if alert.severity == "critical":
            yield alert.summary


def _nothing_loaded(beacons: Iterable[Beacon], planners: Iterable[PlannerFacts]) -> str:
    """Says why no model is loaded, and what loads one."""
    if not any(planner.models for planner in planners):
        return "no model is known: run `pomona models load MODEL`"
    gateways = [beacon.facts for beacon in beacons if isinstance(beacon.facts, GatewayFacts)]
    if gateways and not any(gateway.loads_on_request for gateway in gateways):
        return "no model is loaded: run `pomona models load NAME`"
    return "no model is loaded: the next request loads it"


def _stage_trouble(stage: StageReport) -> str:
    layers = f"layers [{stage.start}, {stage.stop}) on {stage.worker}"
    if stage.state == "lost":
        return f"{layers}: lost, its worker sends no beacon; answers wait until it is replaced"
    return f"{layers}: {stage.state}{f': {stage.error}' if stage.error else ''}"
