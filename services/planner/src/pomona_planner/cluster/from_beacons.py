"""Machines and links of the running cluster, from the beacons of workers and discovery services."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import replace
from statistics import median

from pomona.messages.control import Beacon, StageWorkerFacts
from pomona.messages.discovery import DiscoveryFacts, Hardware
from pomona_planner.cluster.decode_times import load_decode_times
from pomona_planner.cluster.machine_catalog import load_machine_catalog
from pomona_planner.cost_model.calibration import Calibration
from pomona_planner.cost_model.kernel_times import UNIFORM
from pomona_planner.cost_model.memory import usable_bytes
from pomona_planner.cost_model.problem import UNMEASURED, Link, Machine

IPC_PREFIX = Link(200e-6, 2e9, "within the machine")
SOFTWARE_LATENCY_S = 150e-6
"""Latency that software adds to half a round trip, seconds."""
CPU_BANDWIDTH, CPU_COMPUTE, CPU_LAYER_S = 8e9, 50e9, 400e-6
"""Defaults for a machine without Metal that has not measured itself."""
METAL_BANDWIDTH, METAL_COMPUTE = 80e9, 2.5e12
"""Defaults for an unknown Mac: the slowest that runs MLX, so that measurements only improve it."""
NOISE = 0.25
"""Relative difference up to which measurements of equal machines count as noise."""


def candidates(
    workers: Sequence[Beacon], stages: int, preferred: Set[str] = frozenset()
) -> list[Beacon]:
    """Selects one worker of each machine, or more when more stages are requested.

    Args:
        preferred: names of workers that are taken before others of their machine.
    """
    taken: Counter[str] = Counter()
    ranked: list[tuple[int, str, Beacon]] = []
    for worker in sorted(workers, key=lambda worker: (worker.name not in preferred, worker.name)):
        ranked.append((taken[worker.node], worker.name, worker))
        taken[worker.node] += 1
    ranked.sort(key=lambda entry: entry[:2])
    count = max(stages, len(taken))
    return sorted((worker for _, _, worker in ranked[:count]), key=lambda worker: worker.name)


def machines(
    workers: Sequence[Beacon], discoveries: Sequence[Beacon], calibration: Calibration
) -> tuple[Machine, ...]:
    """Returns a machine for each worker; workers of one node share its memory.

    Workers of one node get the median of their measurements, which disturb each other. Nodes of
    one kind get their median too, if they differ from it by at most ``NOISE``.
    """
    workers_on = Counter(worker.node for worker in workers)
    hardware = {
        beacon.node: beacon.facts.hardware
        for beacon in discoveries
        if isinstance(beacon.facts, DiscoveryFacts)
    }
    result = [
        _machine(worker, workers_on[worker.node], hardware.get(worker.node), calibration)
        for worker in workers
    ]
    same_node: dict[Hashable, list[int]] = {}
    same_kind: dict[Hashable, list[int]] = {}
    for index, worker in enumerate(workers):
        known = hardware.get(worker.node)
        kind = worker.node if known is None else (known.chip, known.cores, known.memory_bytes)
        precision = result[index].full_precision
        same_node.setdefault((worker.node, precision), []).append(index)
        same_kind.setdefault((kind, precision), []).append(index)
    for groups, noise in ((same_node, math.inf), (same_kind, NOISE)):
        for group in groups.values():
            peers = [result[index] for index in group]
            for index in group:
                result[index] = _evened(result[index], peers, noise)
    return tuple(result)


def _evened(machine: Machine, peers: Sequence[Machine], noise: float) -> Machine:
    """Replaces measurements that are within ``noise`` of the peers' median by the median."""

    def even(own: float, values: Sequence[float]) -> float:
        middle = median(values)
        return middle if abs(own - middle) <= noise * middle else own

    return replace(
        machine,
        bandwidth=even(machine.bandwidth, [peer.bandwidth for peer in peers]),
        compute=even(machine.compute, [peer.compute for peer in peers]),
        layer_s=even(machine.layer_s, [peer.layer_s for peer in peers]),
        correction=even(machine.correction, [peer.correction for peer in peers]),
    )


def _machine(
    worker: Beacon, workers_on_node: int, hardware: Hardware | None, calibration: Calibration
) -> Machine:
    facts = worker.facts
    assert isinstance(facts, StageWorkerFacts)
    metal = facts.device == "metal"
    times = load_decode_times()
    chip = hardware.chip if hardware is not None else ""
    bandwidth, compute, layer_s = (
        (METAL_BANDWIDTH, METAL_COMPUTE, times.layer_s(chip))
        if metal
        else (CPU_BANDWIDTH, CPU_COMPUTE, CPU_LAYER_S)
    )
    idle_watts, busy_watts = 0.0, 0.0
    catalog = load_machine_catalog()
    memory_bytes = hardware.memory_bytes if hardware is not None else 0
    kind = catalog.by_chip(chip, memory_bytes) if metal else None
    if kind is not None:
        bandwidth, compute = times.bandwidth(chip, kind.bandwidth), kind.compute
        idle_watts, busy_watts = kind.idle_watts, kind.busy_watts
    return Machine(
        name=worker.name,
        memory_bytes=usable_bytes(facts) // workers_on_node,
        bandwidth=facts.memory_bandwidth or bandwidth,
        compute=facts.matrix_flops or compute,
        layer_s=facts.layer_us / 1e6 or layer_s,
        full_precision=not metal,
        kernels=times.kernels if metal else UNIFORM,
        correction=calibration.stages.get(worker.name, 1.0),
        tail_correction=calibration.tail or 1.0,
        idle_watts=idle_watts,
        busy_watts=busy_watts,
    )


def links(
    workers: Sequence[Beacon], discoveries: Sequence[Beacon], calibration: Calibration
) -> Mapping[tuple[str, str], Link]:
    """Returns the link between every two workers, as the discovery services measured it."""
    measured: dict[tuple[str, str], Link] = {}
    for beacon in discoveries:
        if not isinstance(beacon.facts, DiscoveryFacts):
            continue
        for facts in beacon.facts.links:
            if facts.bytes_per_s > 0:
                latency_s = facts.rtt_us / 2e6 + SOFTWARE_LATENCY_S
                measured[beacon.node, facts.node] = Link(latency_s, facts.bytes_per_s, facts.kind)
    result: dict[tuple[str, str], Link] = {}
    for sender in workers:
        for receiver in workers:
            if sender is receiver:
                continue
            if sender.node == receiver.node:
                link = IPC_PREFIX
            else:
                link = measured.get((sender.node, receiver.node), UNMEASURED)
            result[sender.name, receiver.name] = replace(
                link, latency_s=link.latency_s * calibration.links
            )
    return result
