"""Instances for tests of the planner: random small ones for the solver, and models and problems."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import numpy as np

from pomona.messages.control import Beacon
from pomona.messages.discovery import Hardware
from pomona.models import EMBEDDED_MODEL, LayerFacts, ModelFacts, read_facts
from pomona_planner.cluster import from_beacons
from pomona_planner.cost_model.calibration import Calibration
from pomona_planner.cost_model.cost_arrays import Array, Costs
from pomona_planner.cost_model.problem import Problem
from support.beacons import beacon_of

MEGA = 1_000_000
GIGA = 10**9
MINI = Hardware("Apple M4 Pro", 14, 64 * GIGA, 48 * GIGA, "macOS", "26.2")


def small_model(layers: list[int], head: int = 20, tied: bool = False) -> ModelFacts:
    """Args: layers, head: millions of parameters, stored in two bytes each."""
    end = LayerFacts(2 * head * MEGA, head * MEGA, 0)
    return ModelFacts(
        name="m",
        path=Path("m"),
        format="folder",
        architecture="llama",
        hidden_size=64,
        vocab_size=1000,
        context_length=4096,
        tied_embedding=tied,
        layers=tuple(LayerFacts(2 * n * MEGA, n * MEGA, 1000) for n in layers),
        embedding=end,
        head=end,
        eos_token_ids=(2,),
    )


def problem_from_beacons(
    *speeds: float,
    hardware: tuple[Hardware, ...] = (MINI, MINI),
    factors: tuple[float, ...] = (),
    tail: float | None = None,
) -> Problem:
    """Returns the problem of the embedded model on one node for each speed.

    Args:
        speeds: measured memory bandwidth, bytes per second.
        factors, tail: calibration of the stages and of the tail.
    """
    workers: list[Beacon] = []
    discoveries: list[Beacon] = []
    for number, (speed, kind) in enumerate(zip(speeds, hardware, strict=True)):
        facts = {
            "device": "cpu",
            "usable_memory_bytes": 20 * GIGA,
            "memory_bandwidth": speed,
            "matrix_flops": 10 * speed,
            "layer_us": 4e12 / speed,
        }
        workers.append(beacon_of("stage_worker", f"n{number}", facts=facts))
        discoveries.append(beacon_of("discovery", f"n{number}", facts={"hardware": kind}))
    calibration = Calibration(
        stages={worker.name: factor for worker, factor in zip(workers, factors, strict=False)},
        tail=tail,
    )
    return Problem(
        read_facts(EMBEDDED_MODEL),
        from_beacons.machines(workers, discoveries, calibration),
        from_beacons.links(workers, discoveries, calibration),
    )


def random_costs(random_: random.Random, nodes: int, positions: int, kind: str) -> Costs:
    """Generates costs.

    Args:
        kind: ``different`` nodes and links, ``twins`` (nodes of two kinds), or ``flat`` (equal
            links).
    """
    layers = [random_.choice([1.0, 1.0, 1.0, 2.5]) for _ in range(positions - 1)]
    speeds = [
        random_.choice([1.0, 2.0]) if kind == "twins" else random_.uniform(1, 4)
        for _ in range(nodes)
    ]
    kernel = [0.1 if kind == "twins" else random_.uniform(0, 0.3) for _ in range(nodes)]
    times = [
        [layer / speed + k for layer in layers] for speed, k in zip(speeds, kernel, strict=True)
    ]
    before = np.concatenate((np.zeros((nodes, 1)), np.cumsum(times, axis=1)), axis=1)
    if kind == "different":
        link = np.array([[random_.uniform(0, 2) for _ in range(nodes)] for _ in range(nodes)])
    else:
        link = np.full((nodes, nodes), random_.choice([0.0, 0.2, 1.0]))
    fixed = (
        np.full(nodes, 0.1)
        if kind == "twins"
        else np.array([random_.uniform(0, 0.5) for _ in range(nodes)])
    )
    return Costs(fixed, before, random_.uniform(0, 3) / np.array(speeds), link, link.T / 2)


def random_allowed(random_: random.Random, nodes: int, positions: int, kind: str) -> Array:
    """Generates the allowed stages: a few layers each, fewer at both ends, as if by memory."""
    allowed = np.zeros((nodes, positions, positions), dtype=bool)
    largest = [random_.randint(1, positions) for _ in range(nodes)]
    for node in range(nodes):
        size = largest[0] if kind == "twins" else largest[node]
        for start, stop in combinations(range(positions), 2):
            ends = (start == 0) + (stop == positions - 1)
            allowed[node, start, stop] = stop - start + ends <= size + 1
    return allowed
