"""Turns what happens in a cluster into lines for a person: pure, beacons in, lines out."""

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
from pomona_ops.up.supervisor import Died, Started, Stopped, SupervisorEvent

PATIENCE_S = 3.0
"""How long a missing pipeline is not worth a line: at a start the workers come one by one."""

Tone = Literal["plain", "good", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Line:
    """Attributes: who: the service that it is about."""

    who: str
    text: str
    tone: Tone = "plain"


class EventFormatter:
    """Remembers what was said, and says only what is new."""

    def __init__(self, node: str) -> None:
        """Args: node: this machine; its name is left out of its services' names."""
        self._node = node
        self._pipelines: dict[str, Pipeline] = {}
        self._impossible_since: dict[str, float] = {}
        self._stages: dict[str, dict[tuple[str, str, int], str]] = {}
        self._alerts: dict[str, Alert] = {}
        self._broken: dict[str, int] = {}
        self._loading: dict[str, StageStatus] = {}

    @property
    def loading(self) -> dict[str, StageStatus]:
        """The stages that load now, by worker."""
        return dict(self._loading)

    def supervised(self, event: SupervisorEvent) -> Line:
        """A line on what the supervisor did or saw."""
        match event:
            case Started(name, pid, again):
                return Line(name, f"{'restarted' if again else 'started'}, process {pid}")
            case Died(name, how, last_words, log, restart_s):
                said = f": {last_words}" if last_words else ""
                if restart_s is None:
                    return Line(name, f"{how}{said} (its settings cannot be used)", "bad")
                return Line(name, f"{how}{said}. Restart in {restart_s:g} s; log: {log}", "warning")
            case Stopped(name, forced):
                if forced:
                    return Line(name, "did not stop in time and was killed", "warning")
                return Line(name, "stopped")

    def heard(self, beacon: Beacon, now: float) -> Iterator[Line]:
        """Lines on what a beacon tells that was not known before. Args: now: seconds."""
        match beacon.facts:
            case PlannerFacts(pipelines=pipelines):
                for pipeline in pipelines:
                    yield from self._pipeline(pipeline, now)
            case StageWorkerFacts() as facts:
                yield from self._worker(beacon, facts)
            case HealthWatcherFacts(alerts=alerts):
                yield from self._alerted(alerts)
            case _:
                return

    def lost(self, beacon: Beacon) -> None:
        """A service fell silent: it loads nothing now."""
        self._loading.pop(self._short(beacon.name), None)

    def _short(self, name: str) -> str:
        return name.removeprefix(f"{self._node}.")

    def _pipeline(self, pipeline: Pipeline, now: float) -> Iterator[Line]:
        if pipeline.state != "impossible":
            self._impossible_since.pop(pipeline.model, None)
        elif now - self._impossible_since.setdefault(pipeline.model, now) < PATIENCE_S:
            return
        known = self._pipelines.get(pipeline.model)
        if known is not None and _standing(known) == _standing(pipeline):
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
                yield Line(
                    "planner", f"epoch {pipeline.epoch} of {pipeline.model}: layers {stages}"
                )
            case "active":
                yield Line(
                    "planner", f"epoch {pipeline.epoch} of {pipeline.model} is active", "good"
                )

    def _worker(self, beacon: Beacon, facts: StageWorkerFacts) -> Iterator[Line]:
        who = self._short(beacon.name)
        self._loading.pop(who, None)
        known = self._stages.get(who, {})
        # A new boot loads anew, in the same epoch or another.
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
            yield Line(who, f"epoch {facts.broken_epoch} broke: {facts.broken_reason}", "warning")

    def _stage(self, who: str, status: StageStatus) -> Line:
        layers = f"layers [{status.start}, {status.stop})"
        match status.state:
            case "loading":
                return Line(who, f"loading {layers}")
            case "ready":
                return Line(who, f"holds {layers}, {in_bytes(status.loaded_bytes)} of weights")
            case "failed":
                return Line(who, f"failed to load {layers}: {status.error}", "bad")

    def _alerted(self, alerts: tuple[Alert, ...]) -> Iterator[Line]:
        now = {alert.key: alert for alert in alerts}
        for key, alert in now.items():
            if key not in self._alerts:
                tone: Tone = "bad" if alert.severity == "critical" else "warning"
                yield Line("health_watcher", f"ALERT {alert.severity}: {alert.summary}", tone)
        for key, alert in self._alerts.items():
            if key not in now:
                yield Line("health_watcher", f"resolved: {alert.summary}", "good")
        self._alerts = now


def _standing(pipeline: Pipeline) -> tuple[int, str, str]:
    """What is told of a pipeline; that its caches may hold less now, for instance, is not."""
    return pipeline.epoch, pipeline.state, pipeline.reason
