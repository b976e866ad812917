"""Benchmark of the solver: time to a plan, and the share of proven plans."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pomona.models import LayerFacts, ModelFacts
from pomona_ops.bench.numbers import median
from pomona_planner.cost_model.problem import Aim, Demand, Link, Machine, Objective, Problem
from pomona_planner.solver.optimizer import OptimizedPlan, choose

MACHINES, LAYERS = 16, 128
KINDS = ("equal", "mixed", "different", "tight")
TIGHT_RATIO = 1.35
"""Memory of all machines over the model's weights, for the kind ``tight``."""
PROBLEMS = 8
"""Problems solved for each kind and aim."""


def synthetic_problem(seed: int, kind: str, users: int = 1) -> Problem:
    """Generates a problem with ``MACHINES`` machines and ``LAYERS`` layers.

    Args:
        kind: ``equal`` machines, ``mixed`` from five configurations that are sold, all
            ``different`` with different links, or ``tight``: different, with little memory
            and uneven layers.
    """
    random_ = random.Random(seed)
    sold = [(24, 120), (64, 273), (64, 546), (96, 819), (128, 546)]
    machines: list[Machine] = []
    for number in range(MACHINES):
        if kind == "equal":
            memory, bandwidth = 64.0, 273.0
        elif kind == "mixed":
            memory, bandwidth = random_.choice(sold)
        else:
            memory, bandwidth = random_.uniform(16, 128), random_.uniform(100, 800)
        machines.append(
            Machine(f"m{number}", int(memory * 0.75e9), bandwidth * 0.8e9, bandwidth * 3e10)
        )
    names = [machine.name for machine in machines]
    links = {
        (a, b): Link(random_.uniform(5e-5, 8e-4), random_.uniform(1e8, 5e9))
        if kind in ("different", "tight")
        else Link(5e-5, 8e9)
        for a in names
        for b in names
        if a != b
    }
    shares = (0.4, 1.6) if kind == "tight" else (1.0, 1.0)
    layers = tuple(
        LayerFacts(int(2.2e9 * share), int(3.9e9 * share), 1024) for share in shares * (LAYERS // 2)
    )
    end = LayerFacts(10**9, 2 * 10**9, 0)
    facts = ModelFacts(
        "synthetic", Path("m"), "data", "llama", 8192, 128000, 65536, False, layers, end, end, (),
    )  # fmt: skip
    if kind == "tight":
        share = (
            TIGHT_RATIO
            * sum(x.stored_bytes for x in layers)
            / sum(m.memory_bytes for m in machines)
        )
        machines = [replace(m, memory_bytes=int(m.memory_bytes * share)) for m in machines]
    return Problem(facts, tuple(machines), links, Demand(users=users))


def measure_solver() -> dict[str, dict[str, Any]]:
    """Measures the seconds of :func:`choose` by kind of cluster and aim."""
    results: dict[str, dict[str, Any]] = {}
    aims: tuple[Objective, ...] = ("latency", "throughput")
    for kind in KINDS:
        for aim in aims:
            seconds: list[float] = []
            gaps: list[float] = []
            for seed in range(PROBLEMS):
                problem = synthetic_problem(seed, kind, users=1 if aim == "latency" else 8)
                start = time.perf_counter()
                choice = choose(problem, Aim(aim))
                seconds.append(time.perf_counter() - start)
                if isinstance(choice, OptimizedPlan):
                    gaps.append(choice.gap)
            results[f"solver, {kind} machines, {aim}"] = {
                "machines": MACHINES,
                "layers": LAYERS,
                "median_s": median(seconds),
                "most_s": max(seconds),
                "proven": gaps.count(0.0),
                "of": len(gaps),
                "most_gap": max(gaps),
            }
    return results
