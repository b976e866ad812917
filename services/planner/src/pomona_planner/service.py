"""The planner service: receives beacons, decides, and publishes the plan in its own beacon."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from prometheus_client import Counter, Gauge

from pomona.errors import ConfigurationError, ModelError, ModelUnsupportedError, PomonaError
from pomona.messages.control import (
    Beacon,
    GatewayFacts,
    Pipeline,
    PlannerFacts,
    StageWorkerFacts,
    WantedModel,
)
from pomona.metrics_server import MetricsServer
from pomona.models import ModelFacts, model_name, pinned_source, read_facts
from pomona.plain_text import plain_text
from pomona.service import ControlPlane
from pomona_planner.control.desired_models import (
    DesiredModels,
    apply_requests,
    initial_models,
    unload_idle,
)
from pomona_planner.control.drains import (
    DrainForecast,
    Drains,
    adopt_drains,
    apply_drain_requests,
    end_returned,
    in_force,
    with_progress,
)
from pomona_planner.control.leadership import Leadership
from pomona_planner.control.pins import parse_pin, pins_for_model
from pomona_planner.control.placement import newest_request
from pomona_planner.control.plan_control import PlanControl
from pomona_planner.control.proposal import PipelineSpec
from pomona_planner.control.state_files import (
    DesiredModelsFile,
    DrainsFile,
    PlacementFile,
    PlanFile,
)
from pomona_planner.control.weight_digests import WeightDigests
from pomona_planner.draft_choice import DraftChoice, choose_draft
from pomona_planner.settings import PlannerSettings

log = logging.getLogger(__name__)

TICK_S = 0.25
READ_RETRY_S = 30.0
"""Seconds between attempts to read a model that could not be read."""

EPOCH = Gauge("pomona_planner_epoch", "Epoch of the plan", ["model_name"])
ACTIVE = Gauge("pomona_planner_pipeline_active", "1 when every stage is ready", ["model_name"])
CHANGES = Counter("pomona_planner_plan_changes", "New epochs", ["model_name"])


def _servable_facts(source: str) -> ModelFacts:
    """Raises ModelError, also when the model has no tokenizer that gateways can use."""
    facts = read_facts(source)
    if facts.format == "folder" and not (facts.path / "tokenizer.json").is_file():
        raise ModelUnsupportedError(
            f"{facts.path} has no tokenizer.json; save the model's fast tokenizer there"
        )
    return facts


def _configured_facts(source: str) -> ModelFacts:
    """Raises ConfigurationError, since a restart does not make the model readable."""
    try:
        return _servable_facts(source)
    except ModelError as error:
        raise ConfigurationError(f"POMONA_PLANNER_MODELS: {error}") from error


class Planner:
    """The service: reads models, and carries out what :class:`PlanControl` decides."""

    def __init__(self, settings: PlannerSettings) -> None:
        self._settings = settings
        self._desired_file = DesiredModelsFile(settings.state_dir)
        known = [(model_name(x), x) for x in (*settings.models, *settings.known_models)]
        saved = self._desired_file.read()
        self._has_lost_models = saved is None
        self._desired = initial_models(settings.models, known, saved)
        name = f"{settings.node}.planner"
        self._control = ControlPlane(settings, name, self._facts, work=lambda: (self._changes, 0))
        leadership = Leadership(name, self._control.identity.boot, settings.stages)
        self._plan = PlanControl(PlanFile(settings.state_dir), leadership, name, self._on_change)
        self._drains_file = DrainsFile(settings.state_dir)
        self._drains: Drains = self._drains_file.read()
        self._placement_file = PlacementFile(settings.state_dir)
        self._placement = self._placement_file.read()
        self._plan.place(self._placement)
        self._digests = WeightDigests(settings.node, self._control.publish_now)
        self._unreadable: dict[str, tuple[str, float]] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        for source in self._desired.loaded:
            if source in settings.models:
                facts = _configured_facts(source)
                self._add_model(source, facts, choose_draft(settings.draft_model, facts))
        self._active_since: dict[str, float] = {}
        self._changes = 0
        self._control.on_beacon(self._on_beacon)
        self._control.on_lost(self._on_beacon)
        self._changed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until ``stop`` is set."""
        metrics = MetricsServer(
            self._settings, "POMONA_PLANNER_METRICS_PORT", self._control.on_metrics_url
        )
        try:
            async with self._control.running():
                while not stop.is_set():
                    self._unload_idle_models()
                    self._reconcile_models()
                    self._place_machines()
                    self._decide()
                    await self._wait(stop)
                self._control.state = "draining"
        finally:
            for task in self._reading.values():
                task.cancel()
            self._digests.stop()
            metrics.close()

    def _facts(self) -> PlannerFacts:
        pipelines = self._all_pipelines() if self._plan.leads else ()
        models, drains = tuple(self._desired.models.values()), tuple(self._drains.values())
        return PlannerFacts(pipelines, models, drains, self._placement)

    def _all_pipelines(self) -> tuple[Pipeline, ...]:
        unreadable = (
            Pipeline(self._desired.models[source].name, source, 0, 0, "impossible", reason=reason)
            for source, (reason, _) in self._unreadable.items()
        )
        planned = map(self._digests.added_to, self._plan.pipelines())
        return (*planned, *unreadable)

    def _on_beacon(self, beacon: Beacon) -> None:
        if isinstance(beacon.facts, StageWorkerFacts):
            self._changed.set()
        elif isinstance(beacon.facts, GatewayFacts):
            self._set_desired(apply_requests(self._desired, beacon.facts.requests))
            if beacon.facts.drains:
                self._changed.set()
        elif isinstance(beacon.facts, PlannerFacts) and not self._plan.leads:
            self._set_drains(adopt_drains(self._drains, beacon.facts.drains))

    async def _wait(self, stop: asyncio.Event) -> None:
        """Waits for a change, for ``stop``, or for ``TICK_S``."""
        changed = asyncio.create_task(self._changed.wait())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({changed, stopped}, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
        for task in (changed, stopped):
            task.cancel()
        self._changed.clear()

    # Desired models ----------------------------------------------------------------------

    def _set_desired(self, desired: DesiredModels) -> None:
        if desired is not self._desired:
            self._desired = desired
            self._desired_file.write(desired)
            self._control.publish_now()
            self._changed.set()

    def _unload_idle_models(self) -> None:
        idle_s = self._settings.idle_unload_s
        if idle_s:
            self._set_desired(unload_idle(self._desired, self._last_used(), idle_s, time.time()))

    def _last_used(self) -> dict[str, float]:
        """Returns the Unix time of each active model's last use, or since when it is active."""
        now, used = time.time(), dict[str, float]()
        for source in self._plan.sources:
            pipeline = self._plan.pipeline(source)
            if pipeline.state != "active":
                self._active_since.pop(source, None)
                continue
            used[source] = self._active_since.setdefault(source, now)
            for gateway in self._control.leases.of_service("gateway"):
                if isinstance(gateway.facts, GatewayFacts):
                    used[source] = max(used[source], gateway.facts.used.get(pipeline.model, 0.0))
        return used

    def _reconcile_models(self) -> None:
        """Adds controllers for newly desired models, and removes those of the others."""
        desired = self._desired.loaded
        planned = self._plan.sources
        for source in [x for x in (*planned, *self._unreadable) if x not in desired]:
            self._unreadable.pop(source, None)
            if source in planned:
                log.info("%s is unloaded", source)
                self._plan.remove(source, self._control.leases)
            self._control.publish_now()
        for source in desired:
            _, retry_at = self._unreadable.get(source, ("", 0.0))
            known = source in self._plan.sources or source in self._reading
            if not known and retry_at <= time.monotonic():
                self._reading[source] = asyncio.create_task(self._read(source))

    async def _read(self, source: str) -> None:
        try:
            facts = await asyncio.to_thread(_servable_facts, source)
            wanted = self._settings.draft_model
            draft = await asyncio.to_thread(choose_draft, wanted, facts)
            if source in self._desired.loaded:
                self._add_model(source, facts, draft)
        except Exception as error:  # whatever its files contain, the other models go on
            self._fail(source, "cannot be read", error)
        else:
            self._unreadable.pop(source, None)
        finally:
            del self._reading[source]
            self._changed.set()

    def _fail(self, source: str, problem: str, error: Exception) -> None:
        """Publishes the failure of a model, which is tried again after ``READ_RETRY_S``."""
        reason = str(error)
        if not isinstance(error, PomonaError):
            log.exception("%s %s", source, problem)
            reason = f"{source} {problem}: {type(error).__name__}: {reason}"
        else:
            log.error("%s %s: %s", source, problem, reason)
        self._unreadable[source] = (plain_text(reason), time.monotonic() + READ_RETRY_S)
        self._control.publish_now()

    def _add_model(self, source: str, facts: ModelFacts, draft: DraftChoice) -> None:
        settings = self._settings
        spec = PipelineSpec(
            source=pinned_source(source),
            stages=settings.stages,
            context_length=settings.context_length,
            cache_bits=settings.cache_bits,
            settle_s=settings.settle_s,
            aim=settings.aim,
            floor=settings.floor,
            users=settings.users,
            promised_context=settings.promised_context,
            required=frozenset(settings.require),
            spread=settings.spread and not settings.stages,
            excluded=frozenset(settings.exclude),
            pins=pins_for_model(map(parse_pin, settings.pins), facts.name),
            replan_gain=settings.replan_gain,
            replan=settings.replan,
            review_interval_s=settings.look_interval_s,
            draft=draft.facts,
            draft_source=draft.source,
            unused_drafts=draft.unused,
        )
        self._plan.add(source, spec, facts)

    # Machines ----------------------------------------------------------------------------

    def _place_machines(self) -> None:
        """Takes the newest choices for machines, unless a model could not run with them."""
        gateways = self._control.leases.of_service("gateway")
        wanted = newest_request(self._placement, gateways)
        if wanted is None or not self._plan.leads:
            return
        reason = self._plan.why_not(wanted, self._control.leases)
        if reason:
            log.warning("the choices for machines are refused: %s", reason)
            self._placement = replace(self._placement, at=wanted.at, refused=plain_text(reason))
        else:
            self._placement = replace(wanted, refused="")
            self._plan.place(self._placement)
        self._placement_file.write(self._placement)
        self._control.publish_now()

    # Pipelines ---------------------------------------------------------------------------

    def _decide(self) -> None:
        """Adopts or forms pipelines; publishes them from then on."""
        leases = self._control.leases
        if not self._plan.leads and self._has_lost_models:
            self._adopt_models()
        self._decide_drains()
        self._plan.decide(
            leases, time.monotonic(), not self._reading, drained=in_force(self._drains)
        )
        self._control.state = "ready" if self._plan.leads else "starting"
        if self._plan.leads:
            self._digests.update(self._plan.pipelines())

    def _decide_drains(self) -> None:
        """Decides on requests to drain nodes, and notes how far drains are."""
        leases = self._control.leases
        if not self._plan.leads:
            return
        requests = [
            request
            for gateway in leases.of_service("gateway")
            if isinstance(gateway.facts, GatewayFacts)
            for request in gateway.facts.drains
        ]
        beacons = [lease.beacon for lease in leases]

        def forecast(name: str) -> DrainForecast:
            return self._plan.forecast(in_force(self._drains) | {name}, leases)

        drains = apply_drain_requests(self._drains, requests, beacons, forecast)
        drains = end_returned(drains, beacons)
        self._set_drains(with_progress(drains, self._plan.pipelines(), beacons))

    def _set_drains(self, drains: Drains) -> None:
        if drains is not self._drains:
            for drain in drains.values():
                if drain != self._drains.get(drain.node):
                    log.info("%s is %s: %s", drain.node, drain.state, drain.reason or "as asked")
            self._drains = drains
            self._drains_file.write(drains)
            self._control.publish_now()

    def _adopt_models(self) -> None:
        """Wants the models that the workers run, when the file with the wanted ones is lost."""
        known = {pinned_source(source) for source in self._desired.models}
        models = dict(self._desired.models)
        for pipeline in self._plan.reported(self._control.leases):
            if pipeline.source not in known:
                models[pipeline.source] = WantedModel(pipeline.model, pipeline.source, loaded=True)
        if len(models) > len(self._desired.models):
            self._set_desired(replace(self._desired, models=models))
            self._reconcile_models()

    def _on_change(self, before: Pipeline, after: Pipeline) -> None:
        if after.epoch != before.epoch:
            self._changes += 1
            CHANGES.labels(after.model).inc()
        EPOCH.labels(after.model).set(after.epoch)
        ACTIVE.labels(after.model).set(after.state == "active")
        stages = ", ".join(f"{s.worker} [{s.start}, {s.stop})" for s in after.stages)
        # A plan keeps the reason for which there was none before it.
        reason = after.reason if after.reason != before.reason else ""
        text = f"is {after.state}: {stages}" if stages else "has no plan"
        if reason:
            text += f" ({reason})" if stages else f": {reason}"
        log.info("%s %s", after.model, text, extra={"epoch": after.epoch})
        self._control.publish_now()
