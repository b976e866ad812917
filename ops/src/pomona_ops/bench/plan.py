"""The planner: how long it thinks, and how near its predictions come.

Solving is timed on made-up clusters of 16 machines and models of 128 layers. Prediction is
calibrated on a pipeline of two stages, then made for others before they are run.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pomona.messages.control import Beacon, Pipeline, StageStatus, StageWorkerFacts
from pomona.messages.data import Sampling
from pomona.models import LayerFacts, ModelFacts, read_facts
from pomona_ops.bench.clusters import BenchError, running_cluster
from pomona_ops.bench.decode import PROMPT_TOKENS
from pomona_ops.bench.driver import Driver, active_pipeline
from pomona_ops.bench.numbers import median, rate
from pomona_ops.bench.prompts import made_up_prompt
from pomona_ops.ports import LOOPBACK
from pomona_ops.status import hear_cluster
from pomona_planner import sight
from pomona_planner.choosing import Choice, choose
from pomona_planner.predicting import Plan, predict
from pomona_planner.problem import Aim, Demand, Link, Machine, Objective, Problem

MACHINES, LAYERS = 16, 128
KINDS = ("equal", "mixed", "different", "tight")
TIGHT = 1.35
"""Memory of all machines over the model's weights."""
SOLVED = 8
TOKENS = 48
STAGES = (2, 3, 4)


def made_up_problem(seed: int, kind: str, users: int = 1) -> Problem:
    """Sixteen machines.

    Args:
        kind: ``equal`` ones, ``mixed`` of five kinds that are sold, all ``different`` with
            different links, or these with little memory and uneven layers (``tight``).
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
        "made up", Path("m"), "data", "llama", 8192, 128000, 65536, False, layers, end, end, (),
    )  # fmt: skip
    if kind == "tight":
        share = TIGHT * sum(x.stored_bytes for x in layers) / sum(m.memory_bytes for m in machines)
        machines = [replace(m, memory_bytes=int(m.memory_bytes * share)) for m in machines]
    return Problem(facts, tuple(machines), links, Demand(users=users))


def measure_solver() -> dict[str, dict[str, Any]]:
    """Seconds to choose, by kind of cluster and aim."""
    results: dict[str, dict[str, Any]] = {}
    aims: tuple[Objective, ...] = ("latency", "throughput")
    for kind in KINDS:
        for aim in aims:
            seconds: list[float] = []
            gaps: list[float] = []
            for seed in range(SOLVED):
                problem = made_up_problem(seed, kind, users=1 if aim == "latency" else 8)
                begin = time.perf_counter()
                choice = choose(problem, Aim(aim))
                seconds.append(time.perf_counter() - begin)
                if isinstance(choice, Choice):
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


async def measure_prediction(model: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Predicted beside measured speed of one user, calibrated on the first pipeline."""
    learnt = sight.Learnt()
    results: dict[str, dict[str, Any]] = {}
    for stages in STAGES:
        async with running_cluster(model, stages) as options:
            endpoint = f"tcp://{LOOPBACK}:{options.ports.control_subscribe}"
            pipeline = await active_pipeline(endpoint, options.cluster, 20.0)
            heard = await hear_cluster(endpoint, options.cluster)
            predicted = _predicted(model, pipeline, heard, learnt)
            speeds: list[float] = []
            with Driver(pipeline, options.cluster) as driver:
                for number in range(rounds + 1):
                    sampling = Sampling(max_tokens=TOKENS, temperature=0.0)
                    reply = driver.submit(made_up_prompt(PROMPT_TOKENS, number), sampling)
                    await asyncio.to_thread(driver.collect, [reply])
                    if number:
                        speeds.append(rate(reply.moments))
            measured = median(speeds)
            if stages == STAGES[0]:
                heard = await hear_cluster(endpoint, options.cluster)
                learnt = _learnt(model, pipeline, heard)
                calibrated = _predicted(model, pipeline, heard, learnt)
                results["calibration"] = {
                    "stages": stages,
                    "predicted_before": predicted,
                    "predicted": calibrated,
                    "measured": measured,
                    "error": calibrated / measured - 1,
                }
                continue
            results[f"prediction, {stages} stages"] = {
                "stages": stages,
                "layers": " ".join(f"{s.start}..{s.stop}" for s in pipeline.stages),
                "predicted": predicted,
                "measured": measured,
                "error": predicted / measured - 1,
            }
    return results


def _problem(
    model: str, pipeline: Pipeline, heard: list[Beacon], learnt: sight.Learnt
) -> tuple[Problem, Plan]:
    workers = [beacon for beacon in heard if isinstance(beacon.facts, StageWorkerFacts)]
    by_name = {worker.name: number for number, worker in enumerate(workers)}
    discoveries = [beacon for beacon in heard if beacon.facts.service == "discovery"]
    problem = Problem(
        read_facts(model),
        sight.machines(workers, discoveries, learnt),
        sight.links(workers, discoveries, learnt),
        Demand(cached_tokens=PROMPT_TOKENS + TOKENS // 2),
    )
    nodes = tuple(by_name[stage.worker] for stage in pipeline.stages)
    return problem, Plan(nodes, (0, *(stage.stop for stage in pipeline.stages)))


def _predicted(model: str, pipeline: Pipeline, heard: list[Beacon], learnt: sight.Learnt) -> float:
    return predict(*_problem(model, pipeline, heard, learnt)).tokens_per_second


def _learnt(model: str, pipeline: Pipeline, heard: list[Beacon]) -> sight.Learnt:
    """What the pipeline's steps took over what was predicted; all workers are one machine."""
    problem, plan = _problem(model, pipeline, heard, sight.Learnt())
    said = predict(problem, plan)
    statuses = [_status(stage.worker, pipeline, heard) for stage in pipeline.stages]
    stages_s = sum(status.decode_us for status in statuses) / 1e6
    whole_s = max(status.token_us for status in statuses) / 1e6
    correction = stages_s / sum(said.stage_s)
    names = [f"{pipeline.stages[0].worker.rpartition('.')[0]}.{n}" for n in range(max(STAGES))]
    links = max(whole_s - stages_s, 0.0) / sum(said.link_s)
    return sight.Learnt(dict.fromkeys(names, correction), links)


def _status(worker: str, pipeline: Pipeline, heard: list[Beacon]) -> StageStatus:
    for beacon in heard:
        if beacon.name == worker and isinstance(beacon.facts, StageWorkerFacts):
            for status in beacon.facts.stages:
                if status.epoch == pipeline.epoch:
                    return status
    raise BenchError(f"{worker} says nothing of its stage")


async def run_plan(model: str, rounds: int) -> dict[str, Any]:
    return measure_solver() | await measure_prediction(model, rounds)
