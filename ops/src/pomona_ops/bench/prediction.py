"""Benchmark of predictions: predicted beside measured speed.

Each model runs in pipelines of two, three and four stages. The measured steps of the first one
calibrate the costs, as in a running planner; the others are predicted with these. All pipelines
answer in turns, and each turn is calibrated and evaluated by itself, so that a machine that slows
down affects prediction and measurement alike.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pomona.messages.control import Beacon, Prediction, StageStatus, StageWorkerFacts
from pomona.messages.sampling import Sampling
from pomona.models import read_facts
from pomona_ops.bench.clusters import BenchError, running_cluster
from pomona_ops.bench.decode import PROMPT_TOKENS
from pomona_ops.bench.driver import Driver, active_pipeline
from pomona_ops.bench.numbers import median
from pomona_ops.bench.prompts import made_up_prompt
from pomona_ops.bench.solver import measure_solver
from pomona_ops.cluster.beacons import collect_beacons
from pomona_ops.cluster.ports import LOOPBACK
from pomona_ops.cluster.processes import ClusterOptions
from pomona_planner.cluster import from_beacons
from pomona_planner.cost_model.calibration import Calibration
from pomona_planner.cost_model.prediction import Plan, predict
from pomona_planner.cost_model.problem import Demand, Problem

TOKENS = 16
REPLIES = 3
"""Replies of each pipeline in a turn; their steps fill the window of a worker's median."""
STAGES = (2, 3, 4)
RANDOM = "random-"
"""Prefix of models generated for the benchmark; see pomona_stage_worker.testing.random_model."""


async def measure_prediction(model: str, turns: int) -> dict[str, dict[str, Any]]:
    """Measures one user's speed beside its prediction, calibrated on the shortest pipeline."""
    async with _model(model) as source, AsyncExitStack() as stack:
        runs = [
            _PipelineRun(source, await stack.enter_async_context(running_cluster(source, stages)))
            for stages in STAGES
        ]
        first = runs[0]
        for run in runs:
            await run.warm_up()
        for _ in range(turns):
            for _ in range(REPLIES):
                for run in runs:
                    run.generate_reply()
            await asyncio.gather(*(run.receive_beacons() for run in runs))
            calibration = first.calibration()
            for run in runs:
                run.use_machine_figures_of(first)
                run.end_turn(calibration)
        uncalibrated = first.predict(Calibration()).tokens_per_second
        return {
            f"{model}, {len(run.pipeline.stages)} stages": run.report()
            | ({"uncalibrated": uncalibrated} if run is first else {})
            for run in runs
        }


@dataclass(frozen=True, slots=True)
class _Turn:
    """Prediction and measurement of one turn.

    Attributes:
        prediction: calibrated in this turn.
        speed: measured tokens per second, from the median time between tokens, as the
            calibration uses medians too.
        paused: share of the time that the tokens took beyond that median.
        stages_us: median step time of each stage, microseconds.
        round_trip_us: median time from token to token, microseconds.
    """

    prediction: Prediction
    speed: float
    paused: float
    stages_us: list[float]
    round_trip_us: float

    @property
    def error(self) -> float:
        return self.prediction.tokens_per_second / self.speed - 1


class _PipelineRun:
    """A pipeline with its replies and their times."""

    def __init__(self, source: str, options: ClusterOptions) -> None:
        self._facts = read_facts(source)
        self._cluster = options.cluster
        self._endpoint = f"tcp://{LOOPBACK}:{options.ports.control_subscribe}"
        self._beacons: list[Beacon] = []
        self._requests = 0
        self._intervals: list[float] = []
        self._turns: list[_Turn] = []

    async def warm_up(self) -> None:
        """Waits until the pipeline is active and generates one reply."""
        self.pipeline = await active_pipeline(self._endpoint, self._cluster, 20.0)
        self.generate_reply()
        self._intervals.clear()

    def generate_reply(self) -> None:
        self._requests += 1
        with Driver(self.pipeline, self._cluster) as driver:
            sampling = Sampling(max_tokens=TOKENS, temperature=0.0)
            reply = driver.submit(made_up_prompt(PROMPT_TOKENS, self._requests), sampling)
            driver.collect([reply])
        self._intervals += reply.intervals

    async def receive_beacons(self) -> None:
        self._beacons = await collect_beacons(self._endpoint, self._cluster)

    def end_turn(self, calibration: Calibration) -> None:
        interval_s = median(self._intervals)
        paused = 1 - interval_s * len(self._intervals) / sum(self._intervals)
        prediction = self.predict(calibration)
        self._turns.append(_Turn(prediction, 1 / interval_s, paused, *self._measured()))
        self._intervals.clear()

    def use_machine_figures_of(self, other: _PipelineRun) -> None:
        """Replaces the workers' measurements by those that were calibrated.

        All workers are on one machine, which measured itself once for each pipeline.
        """
        facts = next(b.facts for b in other._beacons if isinstance(b.facts, StageWorkerFacts))
        self._beacons = [_with_figures_of(beacon, facts) for beacon in self._beacons]

    def predict(self, calibration: Calibration) -> Prediction:
        return predict(*self._problem(calibration))

    def report(self) -> dict[str, Any]:
        """Returns predictions beside measurements, as medians of all turns."""
        turns = self._turns
        errors = [turn.error for turn in turns]
        predicted_us = zip(*(turn.prediction.stage_us for turn in turns), strict=True)
        stages_us = zip(*(turn.stages_us for turn in turns), strict=True)
        predicted_links_us = median([sum(turn.prediction.link_us) for turn in turns])
        links_us = median([turn.round_trip_us - sum(turn.stages_us) for turn in turns])
        return {
            "layers": " ".join(f"{s.start}..{s.stop}" for s in self.pipeline.stages),
            "predicted": median([turn.prediction.tokens_per_second for turn in turns]),
            "measured": median([turn.speed for turn in turns]),
            "error": median(errors),
            "least_error": min(errors),
            "most_error": max(errors),
            "turns": len(turns),
            "paused": median([turn.paused for turn in turns]),
            "stages_ms": _pairs([median(x) for x in predicted_us], [median(x) for x in stages_us]),
            "links_ms": _pairs([predicted_links_us], [links_us]),
        }

    def calibration(self) -> Calibration:
        """Returns the calibration from this pipeline's steps, for all workers of the machine."""
        stages_us, round_trip_us = self._measured()
        tail_us = self._status(self.pipeline.stages[-1].worker).tail_us
        node = self.pipeline.stages[0].worker.rpartition(".")[0]
        workers = [f"{node}.{number}" for number in range(max(STAGES))]
        prediction = self.predict(Calibration())
        return calibrate(prediction, stages_us, tail_us, round_trip_us, workers)

    def _measured(self) -> tuple[list[float], float]:
        """Returns the median of each stage's step and of the round trip, microseconds."""
        statuses = [self._status(stage.worker) for stage in self.pipeline.stages]
        return [s.decode_us for s in statuses], max(s.token_us for s in statuses)

    def _problem(self, calibration: Calibration) -> tuple[Problem, Plan]:
        workers = [beacon for beacon in self._beacons if isinstance(beacon.facts, StageWorkerFacts)]
        by_name = {worker.name: number for number, worker in enumerate(workers)}
        discoveries = [beacon for beacon in self._beacons if beacon.facts.service == "discovery"]
        problem = Problem(
            self._facts,
            from_beacons.machines(workers, discoveries, calibration),
            from_beacons.links(workers, discoveries, calibration),
            Demand(cached_tokens=PROMPT_TOKENS + TOKENS // 2),
        )
        nodes = tuple(by_name[stage.worker] for stage in self.pipeline.stages)
        return problem, Plan(nodes, (0, *(stage.stop for stage in self.pipeline.stages)))

    def _status(self, worker: str) -> StageStatus:
        for beacon in self._beacons:
            if beacon.name == worker and isinstance(beacon.facts, StageWorkerFacts):
                for status in beacon.facts.stages:
                    if status.epoch == self.pipeline.epoch:
                        return status
        raise BenchError(f"{worker} reports no stage of epoch {self.pipeline.epoch}")


def calibrate(
    prediction: Prediction,
    stages_us: Sequence[float],
    tail_us: float,
    round_trip_us: float,
    workers: Sequence[str],
) -> Calibration:
    """Computes measured over predicted time, with one factor for all workers.

    Args:
        prediction: without calibration.
        stages_us: measured step time of each stage, microseconds.
        tail_us: part of the last stage's step for the vocabulary head and the sampler.
        round_trip_us: measured time from token to token.
    """
    steps_us = sum(stages_us)
    layers = (steps_us - tail_us) / (sum(prediction.stage_us) - prediction.tail_us)
    return Calibration(
        stages=dict.fromkeys(workers, layers),
        tail=tail_us / prediction.tail_us / layers,
        links=max(round_trip_us - steps_us, 0.0) / sum(prediction.link_us),
    )


def _with_figures_of(beacon: Beacon, measured: StageWorkerFacts) -> Beacon:
    if not isinstance(beacon.facts, StageWorkerFacts):
        return beacon
    facts = replace(
        beacon.facts,
        memory_bandwidth=measured.memory_bandwidth,
        matrix_flops=measured.matrix_flops,
        layer_us=measured.layer_us,
    )
    return replace(beacon, facts=facts)


@asynccontextmanager
async def _model(name: str) -> AsyncGenerator[str]:
    """Yields the source of a model; a random one is written, and removed afterwards."""
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
            raise BenchError(f"{name} could not be generated")
        yield str(path)


def _pairs(predicted_us: Sequence[float], measured_us: Sequence[float]) -> str:
    pairs = zip(predicted_us, measured_us, strict=True)
    return ", ".join(f"{p / 1e3:.1f} is {m / 1e3:.1f}" for p, m in pairs)


async def run_plan(models: Sequence[str], turns: int) -> dict[str, Any]:
    results = measure_solver()
    for model in models:
        results |= await measure_prediction(model, turns)
    return results
