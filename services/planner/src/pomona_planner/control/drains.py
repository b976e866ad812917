"""Nodes that are drained: planned without, so that they can be stopped. Pure.

A gateway numbers a request above every decision that the planner has published and repeats it
until the planner's beacon shows a decision, as for models (:mod:`.desired_models`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TypeAlias

from pomona.messages.control import (
    Beacon,
    DrainRequest,
    NodeDrain,
    Pipeline,
    Stage,
    StageWorkerFacts,
)
from pomona.messages.discovery import DiscoveryFacts
from pomona.messages.limits import MAX_NODES
from pomona_planner.control.desired_models import MAX_AHEAD

Drains: TypeAlias = Mapping[str, NodeDrain]
"""Latest decision on each node, by its name."""


@dataclass(frozen=True, slots=True)
class DrainForecast:
    """Expected result of planning without a node.

    Attributes:
        refusal: why the others cannot hold a model that is served now; empty when they can.
        pause_s: expected pause of answers, seconds; with a ``refusal`` the time to load the
            node's layers once it is back.
    """

    refusal: str = ""
    pause_s: float = 0.0


def in_force(drains: Drains) -> frozenset[str]:
    """Returns the names of the nodes and workers that are planned without."""
    return frozenset(drain.node for drain in drains.values() if drain.is_in_force)


def apply_drain_requests(
    drains: Drains,
    requests: Iterable[DrainRequest],
    beacons: Sequence[Beacon],
    forecast: Callable[[str], DrainForecast],
) -> Drains:
    """Decides on the requests of gateways. Returns the same object when none is new.

    Args:
        forecast: called with the name of a node that is to be drained.
    """
    decided = dict(drains)
    limit = max((drain.at for drain in drains.values()), default=0.0) + MAX_AHEAD
    for request in sorted(requests, key=lambda request: request.at):
        known = decided.get(request.node)
        if request.at > limit or (known is not None and known.at >= request.at):
            continue
        if known is None and not _make_room(decided):
            continue
        decided[request.node] = _decision(request, known, beacons, forecast)
    return drains if decided == drains else decided


def _decision(
    request: DrainRequest,
    known: NodeDrain | None,
    beacons: Sequence[Beacon],
    forecast: Callable[[str], DrainForecast],
) -> NodeDrain:
    if not request.drained:
        return NodeDrain(request.node, "ended", at=request.at)
    if known is not None and known.is_in_force:
        return replace(known, until_back=request.until_back, at=request.at)
    expected = forecast(request.node)
    refused = bool(expected.refusal) and not request.force
    return NodeDrain(
        request.node,
        "refused" if refused else "draining",
        request.until_back,
        request.at,
        boot_of(request.node, beacons),
        expected.refusal,
        round(expected.pause_s, 1),
    )


def adopt_drains(drains: Drains, others: Iterable[NodeDrain]) -> Drains:
    """Takes the newer decisions of the planner that leads. Returns the same object without any."""
    newer = {
        drain.node: drain
        for drain in others
        if drain.node not in drains or drain.at > drains[drain.node].at
    }
    return {**drains, **newer} if newer else drains


def end_returned(drains: Drains, beacons: Sequence[Beacon]) -> Drains:
    """Ends drains ``until_back`` of nodes that have been started again and whose workers are
    ready. Returns the same object when there are none."""
    ended = {
        name: replace(
            drain,
            state="ended",
            at=max(other.at for other in drains.values()) + 1,
            reason=f"it is back{_system_of(name, beacons)}",
            pause_s=0.0,
        )
        for name, drain in drains.items()
        if drain.until_back
        and drain.is_in_force
        and boot_of(name, beacons) not in ("", drain.boot)
        and any(name in (x.name, x.node) and x.state == "ready" for x in _workers(beacons))
    }
    return {**drains, **ended} if ended else drains


def with_progress(
    drains: Drains, pipelines: Iterable[Pipeline], beacons: Sequence[Beacon]
) -> Drains:
    """Updates which drains are done: no model needs the node, and it holds no layers.

    Returns the same object when none changes.
    """
    planned = list(pipelines)
    is_forming = any(pipeline.state == "forming" for pipeline in planned)
    used = {name for p in planned for stage in p.stages for name in (stage.worker, stage.node)}
    changed: dict[str, NodeDrain] = {}
    for name, drain in drains.items():
        if not drain.is_in_force:
            continue
        holds = any(name in (x.name, x.node) and _stages(x) for x in _workers(beacons))
        is_done = name not in used and not holds and not is_forming
        # A drained node stays so while another pipeline forms.
        state = "drained" if is_done or (drain.state == "drained" and not holds) else "draining"
        if state != drain.state:
            changed[name] = replace(drain, state=state)
    return {**drains, **changed} if changed else drains


def boot_of(name: str, beacons: Iterable[Beacon]) -> str:
    """Returns the boot id of a node's discovery service, or of a worker; empty when it is away."""
    for beacon in beacons:
        is_node = isinstance(beacon.facts, DiscoveryFacts) and beacon.node == name
        if is_node or beacon.name == name:
            return beacon.boot
    return ""


def _system_of(name: str, beacons: Sequence[Beacon]) -> str:
    """Describes the operating system of a node, beside the others' where these differ."""
    systems = {
        beacon.node: f"{beacon.facts.hardware.os_name} {beacon.facts.hardware.os_version}"
        for beacon in beacons
        if isinstance(beacon.facts, DiscoveryFacts)
    }
    own = systems.pop(name, "")
    others = sorted({system for system in systems.values() if system != own})
    beside = f" (others: {', '.join(others)})" if others else ""
    return f" with {own}{beside}" if own else ""


def _workers(beacons: Iterable[Beacon]) -> list[Beacon]:
    return [beacon for beacon in beacons if isinstance(beacon.facts, StageWorkerFacts)]


def _stages(worker: Beacon) -> int:
    return len(worker.facts.stages) if isinstance(worker.facts, StageWorkerFacts) else 0


def names_stage(stage: Stage, names: Set[str]) -> bool:
    """Returns whether the names contain the stage's worker or its node."""
    return stage.worker in names or stage.node in names


def _make_room(decided: dict[str, NodeDrain]) -> bool:
    """Forgets the oldest decision that is not in force if there are as many as there may be."""
    if len(decided) < MAX_NODES:
        return True
    over = min((x for x in decided.values() if not x.is_in_force), key=lambda x: x.at, default=None)
    if over is not None:
        del decided[over.node]
    return over is not None
