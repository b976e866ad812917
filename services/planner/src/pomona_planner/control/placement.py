"""The operator's choices for machines: excluded, pinned, or with less memory. Pure.

They come from a page through a gateway, and stand beside the planner's settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pomona.messages.control import Beacon, GatewayFacts, Stage, StageWorkerFacts
from pomona.messages.placement import MachineChoice, Placement
from pomona_planner.control.desired_models import MAX_AHEAD
from pomona_planner.control.pins import Pin, pins_for_model
from pomona_planner.control.proposal import PipelineSpec, is_named


def newest_request(current: Placement, gateways: Iterable[Beacon]) -> Placement | None:
    """Returns the newest placement that a gateway wants; None when none is newer than this one."""
    wanted = [
        beacon.facts.placement
        for beacon in gateways
        if isinstance(beacon.facts, GatewayFacts) and beacon.facts.placement is not None
    ]
    newer = [x for x in wanted if current.at < x.at <= current.at + MAX_AHEAD]
    return max(newer, key=lambda x: x.at, default=None)


def placed_spec(spec: PipelineSpec, model: str, placement: Placement) -> PipelineSpec:
    """Adds the choices to what the settings ask of a model's pipeline."""
    excluded = {x.machine for x in placement.choices if x.kind == "exclude"}
    choices = [x for x in placement.choices if x.kind == "pin" and x.start < x.stop]
    chosen = pins_for_model([Pin(x.machine, x.start, x.stop, x.model) for x in choices], model)
    names = {pin.node for pin in chosen}
    return replace(
        spec,
        excluded=spec.excluded | excluded,
        pins=(*chosen, *(pin for pin in spec.pins if pin.node not in names)),
        memory_limits={x.machine: x.memory_bytes for x in placement.choices if x.kind == "cap"},
    )


def spec_fault(before: PipelineSpec, after: PipelineSpec, stages: Iterable[Stage]) -> str:
    """Returns why these stages cannot stay under a changed spec; empty when they can. Excluded
    workers are a fault of their own."""
    pins = {pin.node: (pin.start, pin.stop) for pin in after.pins}
    for stage in stages:
        layers = (stage.start, stage.stop)
        for name in (stage.worker, stage.node):
            if pins.get(name, layers) != layers:
                return f"the operator has pinned other layers to {name}"
            if before.memory_limits.get(name) != after.memory_limits.get(name):
                return f"the operator has changed the memory of {name}"
    return ""


def limited_workers(workers: Sequence[Beacon], placement: Placement) -> list[Beacon]:
    """Returns the workers with no more usable memory than was chosen for them."""
    limits = [x for x in placement.choices if x.kind == "cap"]
    return [_limited(worker, limits) for worker in workers]


def _limited(worker: Beacon, limits: Iterable[MachineChoice]) -> Beacon:
    facts = worker.facts
    named = [x.memory_bytes for x in limits if is_named(worker, {x.machine})]
    if not named or not isinstance(facts, StageWorkerFacts):
        return worker
    usable = min(facts.usable_memory_bytes, *named)
    return replace(worker, facts=replace(facts, usable_memory_bytes=usable))
