"""The planner's predictions beside what is measured.

Each model runs as a pipeline of two stages first. What its steps take corrects the costs, as
a running planner corrects them; then pipelines of three and four stages are predicted before
they are run.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pomona.messages.control import Beacon, Pipeline, StageStatus, StageWorkerFacts
from pomona.messages.data import Sampling
from pomona.models import read_facts
from pomona_ops.bench.clusters import BenchError, running_cluster
from pomona_ops.bench.decode import PROMPT_TOKENS
from pomona_ops.bench.driver import Driver, active_pipeline
from pomona_ops.bench.numbers import median, rate
from pomona_ops.bench.prompts import made_up_prompt
from pomona_ops.bench.solver import measure_solver
from pomona_ops.ports import LOOPBACK
from pomona_ops.status import hear_cluster
from pomona_planner import sight
from pomona_planner.predicting import Plan, Prediction, predict
from pomona_planner.problem import Demand, Problem

TOKENS = 48
STAGES = (2, 3, 4)
RANDOM = "random-"
"""Models called so are made for the measurement; see pomona_stage_worker.testing.random_model."""


async def measure_prediction(model: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Predicted beside measured speed of one user, calibrated on the first pipeline."""
    learnt = sight.Learnt()
    results: dict[str, dict[str, Any]] = {}
    async with _model(model) as source:
        for stages in STAGES:
            async with running_cluster(source, stages) as options:
                endpoint = f"tcp://{LOOPBACK}:{options.ports.control_subscribe}"
                pipeline = await active_pipeline(endpoint, options.cluster, 20.0)
                heard = await hear_cluster(endpoint, options.cluster)
                predicted = predict(*_problem(source, pipeline, heard, learnt))
                speeds = await _speeds(pipeline, options.cluster, rounds)
                heard = await hear_cluster(endpoint, options.cluster)
                if stages == STAGES[0]:
                    uncalibrated = predicted
                    learnt = _learnt(source, pipeline, heard)
                    predicted = predict(*_problem(source, pipeline, heard, learnt))
                    extra = {"uncalibrated": uncalibrated.tokens_per_second}
                else:
                    extra = {}
            measured = median(speeds)
            results[f"{model}, {stages} stages"] = {
                "layers": " ".join(f"{s.start}..{s.stop}" for s in pipeline.stages),
                **extra,
                "predicted": predicted.tokens_per_second,
                "measured": measured,
                "error": predicted.tokens_per_second / measured - 1,
                **_parts(predicted, pipeline, heard),
            }
    return results


@asynccontextmanager
async def _model(name: str) -> AsyncGenerator[str]:
    """Where the model is; a random one is written, and removed when the block ends."""
    if not name.startswith(RANDOM):
        yield name
        return
    with tempfile.TemporaryDirectory(prefix="pomona-bench-") as folder:
        path = Path(folder) / name
        module = "pomona_stage_worker.testing.random_model"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-m", module, name, str(path)
        )
        if await process.wait():
            raise BenchError(f"{name} could not be made")
        yield str(path)


async def _speeds(pipeline: Pipeline, cluster: str, rounds: int) -> list[float]:
    speeds: list[float] = []
    with Driver(pipeline, cluster) as driver:
        for number in range(rounds + 1):
            sampling = Sampling(max_tokens=TOKENS, temperature=0.0)
            reply = driver.submit(made_up_prompt(PROMPT_TOKENS, number), sampling)
            await asyncio.to_thread(driver.collect, [reply])
            if number:
                speeds.append(rate(reply.moments))
    return speeds


def _parts(said: Prediction, pipeline: Pipeline, heard: Sequence[Beacon]) -> dict[str, str]:
    """Where the time goes, milliseconds, predicted and measured."""
    statuses = [_status(stage.worker, pipeline, heard) for stage in pipeline.stages]
    stages_us = sum(status.decode_us for status in statuses)
    whole_us = max(status.token_us for status in statuses)
    return {
        "stages_ms": _pairs(said.stage_s, [status.decode_us for status in statuses]),
        "links_ms": _pairs([sum(said.link_s)], [whole_us - stages_us]),
    }


def _pairs(predicted_s: Sequence[float], measured_us: Sequence[float]) -> str:
    pairs = zip(predicted_s, measured_us, strict=True)
    return ", ".join(f"{p * 1e3:.1f} is {m / 1e3:.1f}" for p, m in pairs)


def _problem(
    model: str, pipeline: Pipeline, heard: Sequence[Beacon], learnt: sight.Learnt
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


def _learnt(model: str, pipeline: Pipeline, heard: Sequence[Beacon]) -> sight.Learnt:
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


def _status(worker: str, pipeline: Pipeline, heard: Sequence[Beacon]) -> StageStatus:
    for beacon in heard:
        if beacon.name == worker and isinstance(beacon.facts, StageWorkerFacts):
            for status in beacon.facts.stages:
                if status.epoch == pipeline.epoch:
                    return status
    raise BenchError(f"{worker} says nothing of its stage")


async def run_plan(models: Sequence[str], rounds: int) -> dict[str, Any]:
    results = measure_solver()
    for model in models:
        results |= await measure_prediction(model, rounds)
    return results
