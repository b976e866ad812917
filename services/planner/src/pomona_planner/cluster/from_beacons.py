"""From beacons to a problem: which workers may hold stages, how fast they and their links are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from statistics import median

from pomona.messages.control import Beacon, StageWorkerFacts
from pomona.messages.discovery import DiscoveryFacts, Hardware
from pomona_planner.cluster.machine_catalog import machine_kinds
from pomona_planner.cost_model.problem import UNMEASURED, Link, Machine

IPC_PREFIX = Link(200e-6, 2e9, "within the machine")
HOP_S = 150e-6
"""What software adds to half a round trip, seconds."""
CPU_BANDWIDTH, CPU_COMPUTE, CPU_LAYER_S = 8e9, 50e9, 400e-6
"""Of a machine without Metal that has not measured itself."""
METAL_BANDWIDTH, METAL_COMPUTE, METAL_LAYER_S = 80e9, 2.5e12, 40e-6
"""Of an unknown Mac: the slowest that runs MLX, so that measuring it brings no bad news."""
ACHIEVED = 0.8
"""Share of a chip's nominal bandwidth that decoding reaches."""

NOISE = 0.25
"""Share by which equal machines measure differently, beside other work."""


@dataclass(slots=True, kw_only=True)
class Calibration:
    """What measurements said of predictions.

    Attributes:
        stages: measured over predicted time, by worker.
        tail: the same of the vocabulary head and the draw, on top of the tail's own.
        links: measured over predicted time of all links of a pipeline together.
    """

    stages: dict[str, float] = field(default_factory=dict[str, float])
    tail: float | None = None
    links: float = 1.0


def candidates(
    workers: Sequence[Beacon], stages: int, named: Set[str] = frozenset()
) -> list[Beacon]:
    """One worker of each machine; more of them only when more stages are wanted.

    Args: named: workers that the operator names go before others of their machine.
    """
    place: Counter[str] = Counter()
    turns: list[tuple[int, str, Beacon]] = []
    for worker in sorted(workers, key=lambda worker: (worker.name not in named, worker.name)):
        turns.append((place[worker.node], worker.name, worker))
        place[worker.node] += 1
    turns.sort(key=lambda turn: turn[:2])
    most = max(stages, len(place))
    return sorted((worker for _, _, worker in turns[:most]), key=lambda worker: worker.name)


def machines(
    workers: Sequence[Beacon], discoveries: Sequence[Beacon], learnt: Calibration
) -> tuple[Machine, ...]:
    """The workers as the planner counts them; those of one machine share its memory."""
    on_node = Counter(worker.node for worker in workers)
    hardware = {
        beacon.node: beacon.facts.hardware
        for beacon in discoveries
        if isinstance(beacon.facts, DiscoveryFacts)
    }
    made = [
        _machine(worker, on_node[worker.node], hardware.get(worker.node), learnt)
        for worker in workers
    ]
    same: dict[Hashable, list[int]] = {}
    alike: dict[Hashable, list[int]] = {}
    for index, worker in enumerate(workers):
        known = hardware.get(worker.node)
        what = worker.node if known is None else (known.chip, known.cores, known.memory_bytes)
        same.setdefault((worker.node, made[index].whole_precision), []).append(index)
        alike.setdefault((what, made[index].whole_precision), []).append(index)
    for group in same.values():
        _even(made, group, math.inf)
    for group in alike.values():
        _even(made, group, NOISE)
    return tuple(made)


def _even(machines: list[Machine], group: Sequence[int], noise: float) -> None:
    """Give machines of one kind that measured about the same the figure in the middle, so that
    noise makes no difference where there is none; one that is really slower keeps its own. The
    workers of one machine cannot be: they measured each other's disturbance."""
    for name in ("bandwidth", "compute", "layer_s", "correction"):
        middle = median(getattr(machines[index], name) for index in group)
        for index in group:
            if abs(getattr(machines[index], name) - middle) <= noise * middle:
                machines[index] = replace(machines[index], **{name: middle})


def _machine(
    worker: Beacon, sharing: int, hardware: Hardware | None, learnt: Calibration
) -> Machine:
    facts = worker.facts
    assert isinstance(facts, StageWorkerFacts)
    metal = facts.device == "metal"
    bandwidth, compute, layer_s = (
        (METAL_BANDWIDTH, METAL_COMPUTE, METAL_LAYER_S)
        if metal
        else (CPU_BANDWIDTH, CPU_COMPUTE, CPU_LAYER_S)
    )
    idle, busy = 0.0, 0.0
    kind = machine_kinds().by_chip(hardware.chip) if hardware is not None and metal else None
    if kind is not None:
        bandwidth, compute = kind.bandwidth * ACHIEVED, kind.compute
        idle, busy = kind.idle_watts, kind.busy_watts
    return Machine(
        name=worker.name,
        memory_bytes=facts.usable_memory_bytes // sharing,
        bandwidth=facts.memory_bandwidth or bandwidth,
        compute=facts.matrix_flops or compute,
        layer_s=facts.layer_us / 1e6 or layer_s,
        whole_precision=not metal,
        correction=learnt.stages.get(worker.name, 1.0),
        tail_correction=learnt.tail or 1.0,
        idle_watts=idle,
        busy_watts=busy,
    )


def links(
    workers: Sequence[Beacon], discoveries: Sequence[Beacon], learnt: Calibration
) -> Mapping[tuple[str, str], Link]:
    """The way between every two workers, as their nodes' discovery services measured it."""
    measured: dict[tuple[str, str], Link] = {}
    for beacon in discoveries:
        if not isinstance(beacon.facts, DiscoveryFacts):
            continue
        for link in beacon.facts.links:
            if link.bytes_per_s > 0:
                latency_s = link.rtt_us / 2e6 + HOP_S
                measured[beacon.node, link.node] = Link(latency_s, link.bytes_per_s, link.kind)
    made: dict[tuple[str, str], Link] = {}
    for sender in workers:
        for receiver in workers:
            if sender is receiver:
                continue
            if sender.node == receiver.node:
                way = IPC_PREFIX
            else:
                way = measured.get((sender.node, receiver.node), UNMEASURED)
            made[sender.name, receiver.name] = Link(
                way.latency_s * learnt.links, way.bandwidth, way.kind
            )
    return made
