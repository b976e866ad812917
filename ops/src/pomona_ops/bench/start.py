"""Time from the start of a stage worker's process until its stage is ready, files present."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pomona.messages.control import Beacon, GatewayFacts, StageWorkerFacts
from pomona.transport import BeaconReceiver, use
from pomona.trust import Trust
from pomona_ops.bench.clusters import READY_DEADLINE_S, BenchError, free_ports
from pomona_ops.bench.numbers import median
from pomona_ops.cluster.ports import LOOPBACK
from pomona_ops.cluster.processes import ClusterOptions, cluster_options, service_specs
from pomona_ops.up.supervisor import Exited, Started, Supervisor, SupervisorEvent


@dataclass(slots=True)
class WorkerStart:
    """Times of one stage worker's process, of time.monotonic(); 0 while not reached."""

    started: float
    first_beacon: float = 0.0
    ready: float = 0.0
    stage_ready: float = 0.0


@dataclass(slots=True)
class ClusterStart:
    """One start of a whole cluster.

    Attributes:
        workers: the stage workers, by process id.
        gateway_ready: time at which the gateway was ready; 0 before.
        exited: description of a process that exited.
    """

    workers: dict[int, WorkerStart] = field(default_factory=dict[int, WorkerStart])
    gateway_ready: float = 0.0
    exited: str = ""

    def on_event(self, event: SupervisorEvent) -> None:
        if isinstance(event, Started) and event.name.startswith("stage_worker"):
            self.workers[event.pid] = WorkerStart(time.monotonic())
        elif isinstance(event, Exited):
            self.exited = f"{event.name} {event.cause} {event.last_error}"

    def on_beacon(self, beacon: Beacon, now: float) -> None:
        facts, worker = beacon.facts, self.workers.get(beacon.pid)
        if isinstance(facts, StageWorkerFacts) and worker is not None:
            worker.first_beacon = worker.first_beacon or now
            if beacon.state == "ready":
                worker.ready = worker.ready or now
            if any(stage.state == "ready" for stage in facts.stages):
                worker.stage_ready = worker.stage_ready or now
        if isinstance(facts, GatewayFacts) and beacon.state == "ready":
            self.gateway_ready = self.gateway_ready or now

    def is_over(self, stages: int) -> bool:
        done = [worker for worker in self.workers.values() if worker.stage_ready]
        return len(done) == stages and self.gateway_ready > 0


async def run_start(model: str, stages: int, rounds: int) -> dict[str, Any]:
    """Measures the time until the slowest stage is ready: in a new state folder, where the worker
    measures its speed first, and in a used one."""
    folder = Path(tempfile.mkdtemp(prefix="pomona-bench-"))
    options = replace(cluster_options(model, stages, free_ports(stages)), state_dir=folder)
    use(Trust.open(folder, options.node, options.cluster))
    try:
        first = await _start(options)
        again = [await _start(options) for _ in range(rounds)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"first": _figures([first]), "again": {"starts": rounds, **_figures(again)}}


async def _start(options: ClusterOptions) -> ClusterStart:
    start = ClusterStart()
    specs = service_specs(options)
    receiver = BeaconReceiver(
        f"tcp://{LOOPBACK}:{options.ports.control_subscribe}", options.cluster
    )
    supervisor = Supervisor(specs, options.state_dir / "logs", start.on_event)
    end = time.monotonic() + READY_DEADLINE_S
    supervisor.start()
    try:
        while not start.is_over(options.stages):
            beacon = await receiver.receive(0.1)
            now = time.monotonic()
            if beacon is not None:
                start.on_beacon(beacon, now)
            if start.exited or now > end:
                raise BenchError(f"the cluster did not start: {start.exited or 'timeout'}")
    finally:
        await supervisor.stop()
        await receiver.close()
    return start


def _figures(starts: list[ClusterStart]) -> dict[str, Any]:
    """Medians over the starts of their slowest worker, and the slowest stage of all."""
    slowest = [max(x.stage_ready - x.started for x in start.workers.values()) for start in starts]
    return {
        "first_beacon_s": median(
            [max(x.first_beacon - x.started for x in start.workers.values()) for start in starts]
        ),
        "worker_ready_s": median(
            [max(x.ready - x.started for x in start.workers.values()) for start in starts]
        ),
        "stage_ready_s": median(slowest),
        "slowest_stage_ready_s": max(slowest),
    }
