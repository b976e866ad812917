"""A cluster of planners and workers without processes, sockets and clocks.

Planners are real :class:`PlanControl` objects with real files; workers obey plans by the stage
worker's own functions. A test moves the time, and delays or loses what it likes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pomona.leases import LeaseTable
from pomona.messages.control import (
    Beacon,
    GatewayFacts,
    Pipeline,
    PlannerFacts,
    StageStatus,
    StageWorkerFacts,
)
from pomona.models import EMBEDDED_MODEL
from pomona_planner.control.leadership import Leadership
from pomona_planner.control.plan_control import PlanControl
from pomona_planner.control.proposal import PipelineSpec
from pomona_planner.control.state_files import PlanFile
from pomona_stage_worker.reconcile import (
    Install,
    Remove,
    Resize,
    accept_plan,
    reconcile,
    wanted_stages,
)
from support.beacons import beacon_of
from support.planner_beacons import FACTS

TICK_S = 0.25
BEACON_TICKS = 4
LOAD_TICKS = 6
STAGES = 2


@dataclass
class World:
    """Everything that runs, and the beacons on their way.

    Attributes:
        delay_ticks: time that the beacons of a service take, by its name.
    """

    folder: Path
    now: float = 100.0
    tick_number: int = 0
    planners: dict[str, FakePlanner] = field(default_factory=dict[str, "FakePlanner"])
    workers: dict[str, FakeWorker] = field(default_factory=dict[str, "FakeWorker"])
    gateway_epochs: dict[str, int] = field(default_factory=dict[str, int])
    delay_ticks: dict[str, int] = field(default_factory=dict[str, int])
    _under_way: list[tuple[int, Beacon]] = field(default_factory=list[tuple[int, Beacon]])
    _boots: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def start_planner(self, name: str) -> None:
        self.planners[name] = FakePlanner(name, f"boot{next(self._boots)}", self.folder / name)

    def start_worker(self, name: str) -> None:
        self.workers[name] = FakeWorker(name, next(self._boots))

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.tick()

    def tick(self) -> None:
        self.now += TICK_S
        self.tick_number += 1
        phase = self.tick_number % BEACON_TICKS
        for index, worker in enumerate(self.workers.values()):
            worker.load()
            if worker.has_changed or index % BEACON_TICKS == phase:
                self._send(worker.beacon())
        for planner in self.planners.values():
            planner.decide(self.now)
            if planner.has_changed or phase == 0:
                self._send(planner.beacon())
        if phase == 0:
            self._send(self._gateway_beacon())
        arrived = [beacon for due, beacon in self._under_way if due <= self.tick_number]
        self._under_way = [entry for entry in self._under_way if entry[0] > self.tick_number]
        for beacon in arrived:
            for planner in self.planners.values():
                planner.leases.observe(beacon, self.now)
            for worker in self.workers.values():
                worker.on_beacon(beacon)
        for planner in self.planners.values():
            planner.leases.expire(self.now)

    def healthy_epoch(self) -> int:
        """Returns the epoch whose stages are all ready in their workers; 0 without one."""
        epochs: list[int] = [0]
        for worker in self.workers.values():
            for install in worker.held.values():
                pipeline = install.pipeline
                if all(
                    (holder := self.workers.get(stage.worker)) is not None
                    and holder.endpoint == stage.endpoint
                    and holder.is_ready(pipeline.epoch)
                    for stage in pipeline.stages
                ):
                    epochs.append(pipeline.epoch)
        return max(epochs)

    def _send(self, beacon: Beacon) -> None:
        self._under_way.append((self.tick_number + self.delay_ticks.get(beacon.name, 0), beacon))

    def _gateway_beacon(self) -> Beacon:
        if epoch := self.healthy_epoch():
            self.gateway_epochs[EMBEDDED_MODEL] = epoch
        facts = GatewayFacts(url="http://g", proven_epochs=dict(self.gateway_epochs))
        return replace(beacon_of("gateway", "g", seq=self.tick_number), facts=facts)


class FakeWorker:
    """A stage worker that loads in a moment and obeys plans as the real one does."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.endpoint = f"tcp://{name}:{number}"
        self.held: dict[int, Install] = {}
        self.told: list[int] = []
        self.has_changed = True
        self._boot = f"boot{number}"
        self._loading: dict[int, int] = {}
        self._obeyed: dict[str, int] = {}
        self._seq = 0

    def is_ready(self, epoch: int) -> bool:
        return epoch in self.held and self._loading.get(epoch, 0) == 0

    def load(self) -> None:
        for epoch, left in list(self._loading.items()):
            self._loading[epoch] = max(left - 1, 0)
            self.has_changed |= left == 1

    def on_beacon(self, beacon: Beacon) -> None:
        if not isinstance(beacon.facts, PlannerFacts) or beacon.state == "starting":
            return
        accepted, self._obeyed = accept_plan(beacon.facts.pipelines, self._obeyed, self.held)
        wanted = wanted_stages(accepted, self.name, self.endpoint)
        for action in reconcile(wanted, self.held):
            self.has_changed = True
            match action:
                case Remove(epoch):
                    del self.held[epoch]
                    self._loading.pop(epoch, None)
                case Resize(install):
                    self.held[install.pipeline.epoch] = install
                case Install():
                    epoch = action.pipeline.epoch
                    self.told.append(epoch)
                    self.held[epoch] = action
                    self._loading[epoch] = LOAD_TICKS

    def beacon(self) -> Beacon:
        self.has_changed = False
        self._seq += 1
        statuses = tuple(
            StageStatus(
                install.pipeline.model,
                epoch,
                install.pipeline.stages[install.position].start,
                install.pipeline.stages[install.position].stop,
                "ready" if self.is_ready(epoch) else "loading",
            )
            for epoch, install in self.held.items()
        )
        facts = StageWorkerFacts(
            "cpu", 20 * 10**9, 0,
            stages=statuses,
            highest_epoch=max(self.told, default=0),
            obeyed_epochs=dict(self._obeyed),
            pipelines=tuple(x.pipeline for x in self.held.values() if x.position == 0),
        )  # fmt: skip
        base = beacon_of("stage_worker", self.name, seq=self._seq, boot=self._boot)
        return replace(base, name=self.name, endpoints={"data": self.endpoint}, facts=facts)


class FakePlanner:
    """A planner with its state folder, as the service runs it."""

    def __init__(self, name: str, boot: str, folder: Path) -> None:
        self.name = name
        self.leases = LeaseTable()
        self.has_changed = True
        self._boot = boot
        self._seq = 0
        leadership = Leadership(name, boot, STAGES)
        self.plan = PlanControl(PlanFile(folder), leadership, name, self._on_change)
        self.plan.add(EMBEDDED_MODEL, PipelineSpec(EMBEDDED_MODEL, STAGES), FACTS)

    def decide(self, now: float) -> None:
        led = self.plan.leads
        self.plan.decide(self.leases, now)
        self.has_changed |= led != self.plan.leads

    def beacon(self) -> Beacon:
        self.has_changed = False
        self._seq += 1
        pipelines = self.plan.pipelines() if self.plan.leads else ()
        base = beacon_of("planner", self.name, boot=self._boot, seq=self._seq)
        state = "ready" if self.plan.leads else "starting"
        return replace(base, name=self.name, state=state, facts=PlannerFacts(pipelines))

    def _on_change(self, before: Pipeline, after: Pipeline) -> None:
        self.has_changed = True
