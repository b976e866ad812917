"""The planner: hears who is there, decides, and says the plan in its beacon."""

from __future__ import annotations

import asyncio
import logging
import time

from prometheus_client import Counter, Gauge

from pomona.errors import ConfigurationError, ModelError
from pomona.messages.control import Beacon, Pipeline, PlannerFacts, StageWorkerFacts
from pomona.models import ModelFacts, read_facts
from pomona.service import ControlPlane, start_metrics
from pomona_planner.deciding import Decider, Wish
from pomona_planner.memory import PlanMemory
from pomona_planner.settings import PlannerSettings

log = logging.getLogger(__name__)

TICK_S = 0.25
GRACE_S = 2.5
"""After hearing nothing at all, how long to wait for workers before they count as gone."""

EPOCH = Gauge("pomona_planner_epoch", "Epoch of the plan", ["model_name"])
ACTIVE = Gauge("pomona_planner_pipeline_active", "1 when every stage is ready", ["model_name"])
CHANGES = Counter("pomona_planner_plan_changes", "New epochs", ["model_name"])


def _usable_facts(source: str) -> ModelFacts:
    """Raises ConfigurationError: a model that cannot be read now will not be by a restart."""
    try:
        return read_facts(source)
    except ModelError as error:
        raise ConfigurationError(f"POMONA_PLANNER_MODELS: {error}") from error


class Planner:
    """One decider a model; epochs are shared by all, so that an epoch names a pipeline."""

    def __init__(self, settings: PlannerSettings) -> None:
        self._settings = settings
        self._memory = PlanMemory(settings.state_dir)
        remembered = {pipeline.source: pipeline for pipeline in self._memory.pipelines}
        self._deciders = [
            Decider(
                Wish(
                    source,
                    settings.stages,
                    settings.context_length,
                    settings.cache_bits,
                    settings.settle_s,
                ),
                _usable_facts(source),
                remembered.get(source),
            )
            for source in settings.models
        ]
        self._changes = 0
        self._hearing_since: float | None = None
        self._control = ControlPlane(
            settings, f"{settings.node}.planner", self._facts, work=lambda: (self._changes, 0)
        )
        self._control.on_beacon(self._hear)
        self._control.on_lost(self._hear)
        self._news = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set."""
        url, stop_metrics = start_metrics(self._settings, "POMONA_PLANNER_METRICS_PORT")
        self._control.endpoints["metrics"] = url
        try:
            async with self._control.running():
                self._control.state = "ready"
                while not stop.is_set():
                    self._decide()
                    await self._wait(stop)
                self._control.state = "draining"
        finally:
            stop_metrics()

    def _facts(self) -> PlannerFacts:
        return PlannerFacts("planner", tuple(d.pipeline for d in self._deciders))

    def _hear(self, beacon: Beacon) -> None:
        if isinstance(beacon.facts, StageWorkerFacts):
            self._news.set()

    async def _wait(self, stop: asyncio.Event) -> None:
        """Until a worker says something new, or a moment has passed."""
        news = asyncio.create_task(self._news.wait())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({news, stopped}, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
        for task in (news, stopped):
            task.cancel()
        self._news.clear()

    def _decide(self) -> None:
        """Decide, unless nothing is heard: then discovery is gone, and the workers may not be."""
        now = time.monotonic()
        if self._control.leases.get(self._control.identity.name) is None:
            self._hearing_since = None
            return
        if self._hearing_since is None:
            self._hearing_since = now
        workers = self._control.leases.of("stage_worker")
        there = {worker.name for worker in workers}
        for decider in self._deciders:
            before = decider.pipeline
            absent = {stage.worker for stage in before.stages} - there
            if absent and now - self._hearing_since < GRACE_S:
                continue
            after = decider.decide(workers, self._next_epoch(workers), now)
            if after != before:
                self._tell(before, after)

    def _next_epoch(self, workers: list[Beacon]) -> int:
        """Above every epoch that was ever planned, also when the memory was lost."""
        heard = [
            status.epoch
            for worker in workers
            if isinstance(worker.facts, StageWorkerFacts)
            for status in worker.facts.stages
        ]
        return max([self._memory.epoch, *heard]) + 1

    def _tell(self, before: Pipeline, after: Pipeline) -> None:
        if after.epoch != before.epoch:
            self._changes += 1
            CHANGES.labels(after.model).inc()
        self._memory.write(self._facts().pipelines)
        EPOCH.labels(after.model).set(after.epoch)
        ACTIVE.labels(after.model).set(after.state == "active")
        log.info(
            "%s is %s: %s%s",
            after.model,
            after.state,
            ", ".join(f"{s.worker} [{s.start}, {s.stop})" for s in after.stages) or "no stages",
            f" ({after.reason})" if after.reason else "",
            extra={"epoch": after.epoch},
        )
        self._control.changed()
