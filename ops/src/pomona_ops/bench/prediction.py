"""The planner's predictions beside what is measured.

Each model runs as pipelines of two, three and four stages. What the steps of the first take
corrects the costs, as a running planner corrects them; the others are predicted with that. All
answer in turns, and each turn is calibrated and judged by itself: a machine that becomes slower
meanwhile does so for what is predicted and for what is measured.
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

from pomona.messages.control import Beacon, StageStatus, StageWorkerFacts
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
from pomona_planner.cost_model.prediction import Plan, Prediction, predict
from pomona_planner.cost_model.problem import Demand, Problem

TOKENS = 16
REPLIES = 3
"""Of each pipeline in a turn. Their steps are about those whose median a worker tells."""
STAGES = (2, 3, 4)
RANDOM = "random-"
"""Models called so are made for the measurement; see pomona_stage_worker.testing.random_model."""


async def measure_prediction(model: str, turns: int) -> dict[str, dict[str, Any]]:
    """Predicted beside measured speed of one user, calibrated on the shortest pipeline."""
    async with _model(model) as source, AsyncExitStack() as stack:
        runs = [
            _Run(source, await stack.enter_async_context(running_cluster(source, stages)))
            for stages in STAGES
        ]
        first = runs[0]
        for run in runs:
            await run.begin()
        for _ in range(turns):
            for _ in range(REPLIES):
                for run in runs:
                    run.answer()
            await asyncio.gather(*(run.hear() for run in runs))
            learnt = first.learnt()
            for run in runs:
                run.take_machine_of(first)
                run.end_turn(learnt)
        uncalibrated = first.predict(from_beacons.Calibration()).tokens_per_second
        return {
            f"{model}, {len(run.pipeline.stages)} stages": run.told()
            | ({"uncalibrated": uncalibrated} if run is first else {})
            for run in runs
        }


@dataclass(frozen=True, slots=True)
class _Turn:
    """Attributes:
    said: the prediction, calibrated in this turn.
    speed: measured, tokens a second: by the median time between tokens, as what calibrates the
        prediction is a median.
    paused: share of the time that the tokens took beyond that median.
    stages_us, whole_us: of each stage's step, and the whole way round; medians.
    """

    said: Prediction
    speed: float
    paused: float
    stages_us: list[float]
    whole_us: float

    @property
    def error(self) -> float:
        return self.said.tokens_per_second / self.speed - 1


class _Run:
    """A pipeline, what it was asked and how long it took."""

    def __init__(self, source: str, options: ClusterOptions) -> None:
        self._facts = read_facts(source)
        self._cluster = options.cluster
        self._endpoint = f"tcp://{LOOPBACK}:{options.ports.control_subscribe}"
        self._heard: list[Beacon] = []
        self._asked = 0
        self._intervals: list[float] = []
        self._turns: list[_Turn] = []

    async def begin(self) -> None:
        """Wait until it can answer; one reply warms it up."""
        self.pipeline = await active_pipeline(self._endpoint, self._cluster, 20.0)
        self.answer()
        self._intervals.clear()

    def answer(self) -> None:
        self._asked += 1
        with Driver(self.pipeline, self._cluster) as driver:
            sampling = Sampling(max_tokens=TOKENS, temperature=0.0)
            reply = driver.submit(made_up_prompt(PROMPT_TOKENS, self._asked), sampling)
            driver.collect([reply])
        self._intervals += reply.intervals

    async def hear(self) -> None:
        self._heard = await collect_beacons(self._endpoint, self._cluster)

    def end_turn(self, learnt: from_beacons.Calibration) -> None:
        usual = median(self._intervals)
        paused = 1 - usual * len(self._intervals) / sum(self._intervals)
        said = self.predict(learnt)
        self._turns.append(_Turn(said, 1 / usual, paused, *self._measured()))
        self._intervals.clear()

    def take_machine_of(self, other: _Run) -> None:
        """All workers are one machine, which measured itself once for each pipeline: predict
        with the figures that were calibrated."""
        facts = next(b.facts for b in other._heard if isinstance(b.facts, StageWorkerFacts))
        self._heard = [_with_speed(beacon, facts) for beacon in self._heard]

    def predict(self, learnt: from_beacons.Calibration) -> Prediction:
        return predict(*self._problem(learnt))

    def told(self) -> dict[str, Any]:
        """The predictions beside what was measured: medians of all turns."""
        turns = self._turns
        errors = [turn.error for turn in turns]
        stages = zip(*(turn.said.stage_s for turn in turns), strict=True)
        stages_us = zip(*(turn.stages_us for turn in turns), strict=True)
        links_us = median([turn.whole_us - sum(turn.stages_us) for turn in turns])
        return {
            "layers": " ".join(f"{s.start}..{s.stop}" for s in self.pipeline.stages),
            "predicted": median([turn.said.tokens_per_second for turn in turns]),
            "measured": median([turn.speed for turn in turns]),
            "error": median(errors),
            "least_error": min(errors),
            "most_error": max(errors),
            "turns": len(turns),
            "paused": median([turn.paused for turn in turns]),
            "stages_ms": _pairs([median(x) for x in stages], [median(x) for x in stages_us]),
            "links_ms": _pairs([median([sum(turn.said.link_s) for turn in turns])], [links_us]),
        }

    def learnt(self) -> from_beacons.Calibration:
        """What this pipeline's steps say of all workers, which are on one machine."""
        stages_us, whole_us = self._measured()
        tail_us = self._status(self.pipeline.stages[-1].worker).tail_us
        node = self.pipeline.stages[0].worker.rpartition(".")[0]
        workers = [f"{node}.{number}" for number in range(max(STAGES))]
        return calibrated(
            self.predict(from_beacons.Calibration()), stages_us, tail_us, whole_us, workers
        )

    def _measured(self) -> tuple[list[float], float]:
        """(each stage's step, the whole way round) in microseconds, medians of the turn."""
        statuses = [self._status(stage.worker) for stage in self.pipeline.stages]
        return [s.decode_us for s in statuses], max(s.token_us for s in statuses)

    def _problem(self, learnt: from_beacons.Calibration) -> tuple[Problem, Plan]:
        workers = [beacon for beacon in self._heard if isinstance(beacon.facts, StageWorkerFacts)]
        by_name = {worker.name: number for number, worker in enumerate(workers)}
        discoveries = [beacon for beacon in self._heard if beacon.facts.service == "discovery"]
        problem = Problem(
            self._facts,
            from_beacons.machines(workers, discoveries, learnt),
            from_beacons.links(workers, discoveries, learnt),
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


def calibrated(
    said: Prediction,
    stages_us: Sequence[float],
    tail_us: float,
    whole_us: float,
    workers: Sequence[str],
) -> from_beacons.Calibration:
    """Measured over predicted, one figure for all workers.

    Args:
        said: predicted without having learnt anything.
        stages_us, tail_us, whole_us: measured: of each stage's step, of what the vocabulary head
            takes of the last one, and of the whole way round.
    """
    steps_s = sum(stages_us) / 1e6
    layers = (steps_s - tail_us / 1e6) / (sum(said.stage_s) - said.tail_s)
    return from_beacons.Calibration(
        stages=dict.fromkeys(workers, layers),
        tail=tail_us / 1e6 / said.tail_s / layers,
        links=max(whole_us / 1e6 - steps_s, 0.0) / sum(said.link_s),
    )


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


async def run_plan(models: Sequence[str], turns: int) -> dict[str, Any]:
    results = measure_solver()
    for model in models:
        results |= await measure_prediction(model, turns)
    return results
