"""Formats supervisor events and beacons as lines for the terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pomona.messages.control import (
    Alert,
    Beacon,
    HealthWatcherFacts,
    Pipeline,
    PlannerFacts,
    StageStatus,
    StageWorkerFacts,
)
from pomona_ops.units import in_bytes
from pomona_ops.up.supervisor import (
    Draining,
    Exited,
    Silent,
    Started,
    Stopped,
    SupervisorEvent,
)

IMPOSSIBLE_AFTER_S = 20.0
"""Seconds for which the first pipeline is impossible before a line says so. While a cluster starts,
the workers appear one by one."""
IMPOSSIBLE_AGAIN_AFTER_S = 3.0
"""The same once a pipeline has formed."""

Tone = Literal["plain", "good", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Line:
    """Attributes:
    who: the service that the line is about.
    """

    who: str
    text: str
    tone: Tone = "plain"


class EventFormatter:
    """Remembers reported states, and formats only changes."""

    def __init__(self, node: str) -> None:
        """Args:
        node: this machine, whose name is left out of service names.
        """
        self._node = node
        self._pipelines: dict[str, Pipeline] = {}
        self._impossible_since: dict[str, float] = {}
        self._impossible_reasons: dict[str, str] = {}
        self._stages: dict[str, dict[tuple[str, str, int], str]] = {}
        self._alerts: dict[str, Alert] = {}
        self._broken: dict[str, int] = {}
        self._loading: dict[str, StageStatus] = {}
        self._has_formed = False
        self._unloaded: set[str] = set()
        self._unfinished: set[str] = set()
        self._down: dict[str, int] = {}

    @property
    def is_settled(self) -> bool:
        """False while a service that ended is not ready again, or a pipeline is not active."""
        return not (self._down or self._loading or self._unfinished)

    @property
    def loading(self) -> dict[str, StageStatus]:
        """The stages that are loading now, by worker."""
        return dict(self._loading)

    def on_supervisor_event(self, event: SupervisorEvent) -> Line:
        """Formats one event."""
        match event:
            case Started(name, pid, is_restart):
                if is_restart:
                    self._down[name] = pid
                return Line(name, f"{'restarted' if is_restart else 'started'}, process {pid}")
            case Exited(name, cause, last_error, log, restart_s):
                self._down[name] = 0
                self._loading.pop(name, None)
                text = f"{cause}: {last_error}" if last_error else cause
                if restart_s is None:
                    return Line(name, f"{text} (its settings are invalid)", "bad")
                return Line(name, f"{text}. Restart in {restart_s:g} s; log: {log}", "warning")
            case Silent(name, pid):
                return Line(name, f"process {pid} sends no beacons and is ended", "warning")
            case Draining(name, pid):
                return Line(name, f"process {pid} finishes its requests; another one takes over")
            case Stopped(name, forced):
                if forced:
                    return Line(name, "did not stop in time and was killed", "warning")
                return Line(name, "stopped")

    def on_beacon(self, beacon: Beacon, now: float) -> Iterator[Line]:
        """Formats the changes in a beacon.

        Args:
            now: monotonic time, seconds.
        """
        who = self._short(beacon.name)
        if beacon.pid == self._down.get(who) and beacon.state == "ready":
            del self._down[who]
        match beacon.facts:
            case PlannerFacts() as facts:
                for pipeline in facts.pipelines:
                    yield from self._pipeline(pipeline, now)
                yield from self._unloads(facts)
            case StageWorkerFacts() as facts:
                yield from self._worker(beacon, facts)
            case HealthWatcherFacts(alerts=alerts):
                yield from self._alert_changes(alerts)
            case _:
                return

    def on_lease_end(self, beacon: Beacon) -> None:
        """Removes a lost service from ``loading``."""
        self._loading.pop(self._short(beacon.name), None)

    def _short(self, name: str) -> str:
        return name.removeprefix(f"{self._node}.")

    def _unloads(self, facts: PlannerFacts) -> Iterator[Line]:
        """Formats which models were unloaded. A planner that has just started plans nothing."""
        planned = {pipeline.model for pipeline in facts.pipelines}
        self._unfinished = {x.model for x in facts.pipelines if x.state == "forming"}
        unloaded = {x.name for x in facts.models if not x.loaded and x.name not in planned}
        for model in sorted(unloaded - self._unloaded):
            if self._pipelines.pop(model, None) is not None:
                yield Line("planner", f"{model} is unloaded; the next request for it loads it")
        self._unloaded = unloaded

    def _pipeline(self, pipeline: Pipeline, now: float) -> Iterator[Line]:
        if pipeline.state == "impossible":
            self._impossible_reasons[pipeline.model] = pipeline.reason
        if pipeline.state != "impossible":
            self._impossible_since.pop(pipeline.model, None)
        else:
            patience_s = IMPOSSIBLE_AGAIN_AFTER_S if self._has_formed else IMPOSSIBLE_AFTER_S
            if now - self._impossible_since.setdefault(pipeline.model, now) < patience_s:
                return
        known = self._pipelines.get(pipeline.model)
        if known is not None and _reported_part(known) == _reported_part(pipeline):
            return
        self._pipelines[pipeline.model] = pipeline
        stages = ", ".join(
            f"[{stage.start}, {stage.stop}) on {self._short(stage.worker)}"
            for stage in pipeline.stages
        )
        match pipeline.state:
            case "impossible":
                text = f"no pipeline for {pipeline.model}: {pipeline.reason}"
                yield Line("planner", text, "warning")
            case "forming":
                self._has_formed = True
                # The planner keeps the reason for which there was no pipeline before.
                is_news = pipeline.reason not in ("", self._impossible_reasons.get(pipeline.model))
                reason = f" ({pipeline.reason})" if is_news else ""
                text = f"epoch {pipeline.epoch} of {pipeline.model}: layers {stages}{reason}"
                yield Line("planner", text)
            case "active":
                yield Line(
                    "planner", f"epoch {pipeline.epoch} of {pipeline.model} is active", "good"
                )

    def _worker(self, beacon: Beacon, facts: StageWorkerFacts) -> Iterator[Line]:
        who = self._short(beacon.name)
        self._loading.pop(who, None)
        known = self._stages.get(who, {})
        # A new boot loads again, even in the same epoch.
        self._stages[who] = {
            (beacon.boot, status.model, status.epoch): status.state for status in facts.stages
        }
        for status in facts.stages:
            if status.state == "loading":
                self._loading[who] = status
            if known.get((beacon.boot, status.model, status.epoch)) != status.state:
                yield self._stage(who, status)
        if facts.broken_epoch > self._broken.get(who, 0):
            self._broken[who] = facts.broken_epoch
            yield Line(who, f"epoch {facts.broken_epoch} failed: {facts.broken_reason}", "warning")

    def _stage(self, who: str, status: StageStatus) -> Line:
        layers = f"layers [{status.start}, {status.stop})"
        match status.state:
            case "loading":
                return Line(who, f"loading {layers}")
            case "ready":
                return Line(who, f"holds {layers}, {in_bytes(status.loaded_bytes)} of weights")
            case "failed":
                return Line(who, f"failed to load {layers}: {status.error}", "bad")

    def _alert_changes(self, alerts: tuple[Alert, ...]) -> Iterator[Line]:
        now = {alert.key: alert for alert in alerts}
        for key, alert in now.items():
            if key not in self._alerts:
                tone: Tone = "bad" if alert.severity == "critical" else "warning"
                yield Line("health_watcher", f"ALERT {alert.severity}: {alert.summary}", tone)
        for key, alert in self._alerts.items():
            # A restart is over when it is told.
            if key not in now and alert.severity == "critical":
                kind, _, name = alert.key.partition("/")
                is_loss = kind == "service_lost"
                over = f"{self._short(name)} serves again" if is_loss else alert.summary
                yield Line("health_watcher", f"resolved: {over}", "good")
        self._alerts = now


def _reported_part(pipeline: Pipeline) -> tuple[int, str, str]:
    """Returns the fields whose change is worth a line; cache sizes, for example, are not."""
    return pipeline.epoch, pipeline.state, pipeline.reason
