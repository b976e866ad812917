"""The planner's predictions beside what is measured.

Each model runs as pipelines of two, three and four stages. What the steps of the first take
corrects the costs, as a running planner corrects them; the others are predicted with that.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pomona.messages.control import Beacon, StageStatus, StageWorkerFacts
from pomona.messages.data import Sampling
from pomona.models import read_facts
from pomona_ops.bench.clusters import BenchError, running_cluster
from pomona_ops.bench.decode import PROMPT_TOKENS
from pomona_ops.bench.driver import Driver, active_pipeline
from pomona_ops.bench.numbers import median, rate
from pomona_ops.bench.prompts import made_up_prompt
from pomona_ops.bench.solver import measure_solver
from pomona_ops.cluster import ClusterOptions
from pomona_ops.ports import LOOPBACK
from pomona_ops.status import hear_cluster
from pomona_planner import sight
from pomona_planner.predicting import Plan, Prediction, predict
from pomona_planner.problem import Demand, Problem

TOKENS = 32
STAGES = (2, 3, 4)
RANDOM = "random-"
"""Models called so are made for the measurement; see pomona_stage_worker.testing.random_model."""


async def measure_prediction(model: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Predicted beside measured speed of one user, calibrated on the shortest pipeline.

    All pipelines are up at once and answer in turns, so that whatever else the machine does
    slows all of them.
    """
    async with _model(model) as source, AsyncExitStack() as stack:
        runs = [
            _Run(source, await stack.enter_async_context(running_cluster(source, stages)))
            for stages in STAGES
        ]
        for run in runs:
            await run.begin()
        for number in range(rounds + 1):
            for run in runs:
                await run.answer(number)
        first = runs[0]
        uncalibrated = first.predict(sight.Learnt()).tokens_per_second
        learnt = first.learnt()
        for run in runs:
            run.take_machine_of(first)
        return {
            f"{model}, {len(run.pipeline.stages)} stages": run.told(run.predict(learnt))
            | ({"uncalibrated": uncalibrated} if run is first else {})
            for run in runs
        }


class _Run:
    """A pipeline, what it was asked and how long it took."""

    def __init__(self, source: str, options: ClusterOptions) -> None:
        self._facts = read_facts(source)
        self._cluster = options.cluster
        self._endpoint = f"tcp://{LOOPBACK}:{options.ports.control_subscribe}"
        self._heard: list[Beacon] = []
        self._speeds: list[float] = []
        self._statuses: list[list[StageStatus]] = []

    async def begin(self) -> None:
        self.pipeline = await active_pipeline(self._endpoint, self._cluster, 20.0)

    async def answer(self, number: int) -> None:
        """One reply. The first of all warms up and is not counted."""
        with Driver(self.pipeline, self._cluster) as driver:
            sampling = Sampling(max_tokens=TOKENS, temperature=0.0)
            reply = driver.submit(made_up_prompt(PROMPT_TOKENS, number), sampling)
            await asyncio.to_thread(driver.collect, [reply])
        self._heard = await hear_cluster(self._endpoint, self._cluster)
        if number:
            self._speeds.append(rate(reply.moments))
            self._statuses.append([self._status(x.worker) for x in self.pipeline.stages])

    def take_machine_of(self, other: _Run) -> None:
        """All workers are one machine, which measured itself once for each pipeline: predict
        with the figures that were calibrated."""
        facts = next(b.facts for b in other._heard if isinstance(b.facts, StageWorkerFacts))
        self._heard = [_with_speed(beacon, facts) for beacon in self._heard]

    def predict(self, learnt: sight.Learnt) -> Prediction:
        return predict(*self._problem(learnt))

    def told(self, said: Prediction) -> dict[str, Any]:
        """The prediction beside what was measured."""
        stages_us, whole_us = self._measured()
        measured = median(self._speeds)
        return {
            "layers": " ".join(f"{s.start}..{s.stop}" for s in self.pipeline.stages),
            "predicted": said.tokens_per_second,
            "measured": measured,
            "error": said.tokens_per_second / measured - 1,
            "stages_ms": _pairs(said.stage_s, stages_us),
            "links_ms": _pairs([sum(said.link_s)], [whole_us - sum(stages_us)]),
        }

    def learnt(self) -> sight.Learnt:
        """Measured over predicted; all workers are on one machine, so one figure for all."""
        said = self.predict(sight.Learnt())
        stages_us, whole_us = self._measured()
        correction = sum(stages_us) / 1e6 / sum(said.stage_s)
        links = max(whole_us - sum(stages_us), 0.0) / 1e6 / sum(said.link_s)
        node = self.pipeline.stages[0].worker.rpartition(".")[0]
        names = [f"{node}.{number}" for number in range(max(STAGES))]
        return sight.Learnt(dict.fromkeys(names, correction), links)

    def _measured(self) -> tuple[list[float], float]:
        """(each stage's step, the whole way round) in microseconds, medians of all replies."""
        stages = [median([s.decode_us for s in turn]) for turn in zip(*self._statuses, strict=True)]
        whole = median([max(s.token_us for s in statuses) for statuses in self._statuses])
        return stages, whole

    def _problem(self, learnt: sight.Learnt) -> tuple[Problem, Plan]:
        workers = [beacon for beacon in self._heard if isinstance(beacon.facts, StageWorkerFacts)]
        by_name = {worker.name: number for number, worker in enumerate(workers)}
        discoveries = [beacon for beacon in self._heard if beacon.facts.service == "discovery"]
        problem = Problem(
            self._facts,
            sight.machines(workers, discoveries, learnt),
            sight.links(workers, discoveries, learnt),
            Demand(cached_tokens=PROMPT_TOKENS + TOKENS // 2),
        )
        nodes = tuple(by_name[stage.worker] for stage in self.pipeline.stages)
        return problem, Plan(nodes, (0, *(stage.stop for stage in self.pipeline.stages)))

    def _status(self, worker: str) -> StageStatus:
        for beacon in self._heard:
            if beacon.name == worker and isinstance(beacon.facts, StageWorkerFacts):
                for status in beacon.facts.stages:
                    if status.epoch == self.pipeline.epoch:
                        return status
        raise BenchError(f"{worker} says nothing of its stage")


def _with_speed(beacon: Beacon, like: StageWorkerFacts) -> Beacon:
    if not isinstance(beacon.facts, StageWorkerFacts):
        return beacon
    facts = replace(
        beacon.facts,
        memory_bandwidth=like.memory_bandwidth,
        matrix_flops=like.matrix_flops,
        layer_us=like.layer_us,
    )
    return replace(beacon, facts=facts)


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


def _pairs(predicted_s: Sequence[float], measured_us: Sequence[float]) -> str:
    pairs = zip(predicted_s, measured_us, strict=True)
    return ", ".join(f"{p * 1e3:.1f} is {m / 1e3:.1f}" for p, m in pairs)


async def run_plan(models: Sequence[str], rounds: int) -> dict[str, Any]:
    results = measure_solver()
    for model in models:
        results |= await measure_prediction(model, rounds)
    return results
