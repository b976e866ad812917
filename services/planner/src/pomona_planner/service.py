"""The planner: hears who is there, decides, and says the plan in its beacon."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from prometheus_client import Counter, Gauge

from pomona.errors import ConfigurationError, ModelError, ModelUnsupportedError
from pomona.messages.control import (
    Beacon,
    GatewayFacts,
    Pipeline,
    PlannerFacts,
    StageWorkerFacts,
)
from pomona.models import ModelFacts, model_name, pinned_source, read_facts
from pomona.service import ControlPlane, start_metrics
from pomona_planner.control.desired_models import DesiredModels, first_wants, hear, unload_idle
from pomona_planner.control.pins import parse_pin, pins_of
from pomona_planner.control.pipeline_controller import PipelineController
from pomona_planner.control.proposal import PipelineSpec
from pomona_planner.control.state_files import PlanMemory, WantMemory
from pomona_planner.cost_model.cache_sharing import PlacedModel, fair_cache_tokens, leave_room
from pomona_planner.settings import PlannerSettings

log = logging.getLogger(__name__)

TICK_S = 0.25
READ_AGAIN_S = 30.0
"""Between attempts to read a model that could not be read."""
GRACE_S = 2.5
"""After hearing nothing at all, how long to wait for workers before they count as gone."""

EPOCH = Gauge("pomona_planner_epoch", "Epoch of the plan", ["model_name"])
ACTIVE = Gauge("pomona_planner_pipeline_active", "1 when every stage is ready", ["model_name"])
CHANGES = Counter("pomona_planner_plan_changes", "New epochs", ["model_name"])


def _servable_facts(source: str) -> ModelFacts:
    """Raises ModelError. Without a tokenizer no gateway could ask the model anything."""
    facts = read_facts(source)
    if facts.format == "folder" and not (facts.path / "tokenizer.json").is_file():
        raise ModelUnsupportedError(
            f"{facts.path} has no tokenizer.json; save the model's fast tokenizer there"
        )
    return facts


def _usable_facts(source: str) -> ModelFacts:
    """Raises ConfigurationError: a model that cannot be read now will not be by a restart."""
    try:
        return _servable_facts(source)
    except ModelError as error:
        raise ConfigurationError(f"POMONA_PLANNER_MODELS: {error}") from error


class Planner:
    """One decider a model; epochs are shared by all, so that an epoch names a pipeline."""

    def __init__(self, settings: PlannerSettings) -> None:
        self._settings = settings
        self._memory = PlanMemory(settings.state_dir)
        self._want_memory = WantMemory(settings.state_dir)
        known = [(model_name(x), x) for x in (*settings.models, *settings.known_models)]
        self._wants = first_wants(settings.models, known, self._want_memory.read())
        self._tenants: dict[str, PipelineController] = {}
        self._facts_of: dict[str, ModelFacts] = {}
        self._unreadable: dict[str, tuple[str, float]] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        for source in self._wants.loaded:
            if source in settings.models:
                self._take_in(source, _usable_facts(source))
        self._active_since: dict[str, float] = {}
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
                    self._follow_wants()
                    self._decide()
                    await self._wait(stop)
                self._control.state = "draining"
        finally:
            for task in self._reading.values():
                task.cancel()
            stop_metrics()

    def _facts(self) -> PlannerFacts:
        return PlannerFacts(self._pipelines(), tuple(self._wants.models.values()))

    def _pipelines(self) -> tuple[Pipeline, ...]:
        unreadable = (
            Pipeline(self._wants.models[source].name, source, 0, 0, "impossible", reason=reason)
            for source, (reason, _) in self._unreadable.items()
        )
        return (*(x.pipeline for x in self._tenants.values()), *unreadable)

    def _hear(self, beacon: Beacon) -> None:
        if isinstance(beacon.facts, StageWorkerFacts):
            self._news.set()
        elif isinstance(beacon.facts, GatewayFacts):
            self._want(hear(self._wants, beacon.facts.requests))

    # Which models -----------------------------------------------------------------------

    def _want(self, wants: DesiredModels) -> None:
        if wants is not self._wants:
            self._wants = wants
            self._want_memory.write(wants)
            self._control.publish_now()
            self._news.set()

    def _follow_wants(self) -> None:
        """Begin to plan for what is wanted newly, and plan no longer for what is not."""
        if self._settings.idle_unload_s:
            idle_s = self._settings.idle_unload_s
            self._want(unload_idle(self._wants, self._last_used(), idle_s, time.time()))
        wanted = self._wants.loaded
        for source in [x for x in (*self._tenants, *self._unreadable) if x not in wanted]:
            self._unreadable.pop(source, None)
            if self._tenants.pop(source, None) is not None:
                log.info("%s is no longer wanted", source)
                self._memory.write(tuple(x.pipeline for x in self._tenants.values()))
                self._share_caches()
            self._control.publish_now()
        for source in wanted:
            _, again_at = self._unreadable.get(source, ("", 0.0))
            known = source in self._tenants or source in self._reading
            if not known and again_at <= time.monotonic():
                self._reading[source] = asyncio.create_task(self._read(source))

    async def _read(self, source: str) -> None:
        try:
            facts = await asyncio.to_thread(_servable_facts, source)
        except ModelError as error:
            log.error("%s cannot be read: %s", source, error)
            self._unreadable[source] = (str(error)[:4096], time.monotonic() + READ_AGAIN_S)
            self._control.publish_now()
        else:
            self._unreadable.pop(source, None)
            if source in self._wants.loaded:
                self._take_in(source, facts)
        finally:
            del self._reading[source]
            self._news.set()

    def _take_in(self, source: str, facts: ModelFacts) -> None:
        settings = self._settings
        wish = PipelineSpec(
            pinned_source(source),
            settings.stages,
            settings.context_length,
            settings.cache_bits,
            settings.settle_s,
            settings.aim,
            settings.floor,
            settings.users,
            settings.promised_context,
            frozenset(settings.require),
            frozenset(settings.exclude),
            pins_of(map(parse_pin, settings.pins), facts.name),
            settings.replan_gain,
            settings.replan,
            settings.look_interval_s,
        )
        remembered = {pipeline.source: pipeline for pipeline in self._memory.pipelines}
        self._facts_of[source] = facts
        self._tenants[source] = PipelineController(wish, facts, remembered.get(wish.source))

    def _last_used(self) -> dict[str, float]:
        """By source, when a gateway was last asked something of a model, or when it became
        ready; only of models that are active and have nothing running."""
        now, used = time.time(), dict[str, float]()
        for source, decider in self._tenants.items():
            pipeline = decider.pipeline
            if pipeline.state != "active":
                self._active_since.pop(source, None)
                continue
            used[source] = self._active_since.setdefault(source, now)
            for gateway in self._control.leases.of_service("gateway"):
                if isinstance(gateway.facts, GatewayFacts):
                    used[source] = max(used[source], gateway.facts.used.get(pipeline.model, 0.0))
        return used

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
        workers = self._control.leases.of_service("stage_worker")
        leases = self._control.leases
        heard = [*leases.of_service("discovery"), *leases.of_service("gateway")]
        there = {worker.name for worker in workers}
        for source, decider in self._tenants.items():
            before = decider.pipeline
            absent = {stage.worker for stage in before.stages} - there
            if absent and now - self._hearing_since < GRACE_S:
                continue
            others = self._placed(but=source)
            room = leave_room(workers, others)
            beside = [x.pipeline.model for x in others]
            after = decider.decide(room, self._next_epoch(workers), now, heard, beside)
            if after != before:
                self._tell(before, after)
            if after.epoch != before.epoch:
                self._share_caches()

    def _placed(self, but: str = "") -> list[PlacedModel]:
        return [
            PlacedModel(decider.pipeline, self._facts_of[source])
            for source, decider in self._tenants.items()
            if decider.pipeline.stages and source != but
        ]

    def _share_caches(self) -> None:
        """Give each model its share of the memory for caches. No pipeline is formed anew for
        it: the heads follow, and requests that were accepted keep their room."""
        caps = fair_cache_tokens(self._placed(), self._control.leases.of_service("stage_worker"))
        for decider in self._tenants.values():
            before = decider.pipeline
            if before.prediction is None:
                continue
            alone = before.prediction.cache_tokens
            decider.pipeline = replace(
                before, cache_tokens=min(alone, caps.get(before.epoch, alone))
            )
            if decider.pipeline != before:
                self._tell(before, decider.pipeline)

    def _next_epoch(self, workers: list[Beacon]) -> int:
        """Above every epoch that was ever planned, also when the memory was lost."""
        heard = [
            status.epoch
            for worker in workers
            if isinstance(worker.facts, StageWorkerFacts)
            for status in worker.facts.stages
        ]
        planned = [decider.pipeline.epoch for decider in self._tenants.values()]
        return max([self._memory.epoch, *heard, *planned]) + 1

    def _tell(self, before: Pipeline, after: Pipeline) -> None:
        if after.epoch != before.epoch:
            self._changes += 1
            CHANGES.labels(after.model).inc()
        self._memory.write(tuple(x.pipeline for x in self._tenants.values()))
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
        self._control.publish_now()
