"""How long a stage takes from the start of its process until it is ready, files present."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pomona.messages.control import Beacon, GatewayFacts, StageWorkerFacts
from pomona.transport import BeaconReceiver
from pomona_ops.bench.clusters import READY_DEADLINE_S, BenchError, free_ports
from pomona_ops.bench.numbers import median
from pomona_ops.cluster.ports import LOOPBACK
from pomona_ops.cluster.processes import ClusterOptions, cluster_options, service_specs
from pomona_ops.up.supervisor import Died, Started, Supervisor, SupervisorEvent


@dataclass(slots=True)
class Life:
    """Moments of one stage worker's process, seconds of time.monotonic(); 0 before."""

    started: float
    heard: float = 0.0
    ready: float = 0.0
    stage_ready: float = 0.0


@dataclass(slots=True)
class Start:
    """One start of a whole cluster. Attributes: lives: of the stage workers, by process id."""

    lives: dict[int, Life] = field(default_factory=dict[int, Life])
    answers: float = 0.0
    died: str = ""

    def supervised(self, event: SupervisorEvent) -> None:
        if isinstance(event, Started) and event.name.startswith("stage_worker"):
            self.lives[event.pid] = Life(time.monotonic())
        elif isinstance(event, Died):
            self.died = f"{event.name} {event.how} {event.last_words}"

    def hear(self, beacon: Beacon, now: float) -> None:
        facts, life = beacon.facts, self.lives.get(beacon.pid)
        if isinstance(facts, StageWorkerFacts) and life is not None:
            life.heard = life.heard or now
            if beacon.state == "ready":
                life.ready = life.ready or now
            if any(stage.state == "ready" for stage in facts.stages):
                life.stage_ready = life.stage_ready or now
        if isinstance(facts, GatewayFacts) and beacon.state == "ready":
            self.answers = self.answers or now

    def is_over(self, stages: int) -> bool:
        done = [life for life in self.lives.values() if life.stage_ready]
        return len(done) == stages and self.answers > 0


async def run_start(model: str, stages: int, rounds: int) -> dict[str, Any]:
    """Seconds until the slowest stage is ready: on a new machine, which measures its speed
    first, and on one that has served before."""
    folder = Path(tempfile.mkdtemp(prefix="pomona-bench-"))
    options = replace(cluster_options(model, stages, free_ports(stages)), state_dir=folder)
    try:
        first = await _start(options)
        again = [await _start(options) for _ in range(rounds)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"first": _figures([first]), "again": {"starts": rounds, **_figures(again)}}


async def _start(options: ClusterOptions) -> Start:
    start = Start()
    specs = service_specs(options)
    receiver = BeaconReceiver(
        f"tcp://{LOOPBACK}:{options.ports.control_subscribe}", options.cluster
    )
    supervisor = Supervisor(specs, options.state_dir / "logs", start.supervised)
    end = time.monotonic() + READY_DEADLINE_S
    supervisor.start()
    try:
        while not start.is_over(options.stages):
            beacon = await receiver.receive(0.1)
            now = time.monotonic()
            if beacon is not None:
                start.hear(beacon, now)
            if start.died or now > end:
                raise BenchError(f"the cluster did not come up: {start.died or 'it is too slow'}")
    finally:
        await supervisor.stop()
        await receiver.close()
    return start


def _figures(starts: list[Start]) -> dict[str, Any]:
    """Of each start the slowest stage, of several starts the median, and the slowest of all."""
    slowest = [max(x.stage_ready - x.started for x in start.lives.values()) for start in starts]
    return {
        "first_beacon_s": median(
            [max(x.heard - x.started for x in start.lives.values()) for start in starts]
        ),
        "worker_ready_s": median(
            [max(x.ready - x.started for x in start.lives.values()) for start in starts]
        ),
        "stage_ready_s": median(slowest),
        "slowest_stage_ready_s": max(slowest),
    }
