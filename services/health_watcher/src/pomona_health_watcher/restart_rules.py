"""Follows services that died and were started again, until they serve again. Pure.

A restart is one warning, raised when the service serves again, or one critical condition when it
does not within ``SERVING_DEADLINE_S``. It counts the deaths of ``WINDOW_S``, so that a crash loop
is one condition that grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pomona.messages.control import Beacon, GatewayFacts, StageWorkerFacts
from pomona_health_watcher.conditions import Condition, title_of
from pomona_health_watcher.loss_rules import Death
from pomona_health_watcher.serving import paused_answers, serves

SERVING_DEADLINE_S: Final = 10.0
"""Seconds from a death after which a service that does not serve is critical."""
WINDOW_S: Final = 180.0
"""Seconds for which a death counts towards a crash loop."""
CALM_S: Final = 10.0
"""Seconds for which a single restart stays a condition after the service serves again; a crash
loop stays one for WINDOW_S."""
RESUME_S: Final = 5.0
"""Longest wait, after a service serves again, for the answers that paused."""
MAX_CAUSE_CHARACTERS: Final = 300
MAX_COUNTS: Final = 64
"""Changes of a gateway's count that are kept."""
MAX_GATEWAYS: Final = 16
"""Gateway processes whose counts are kept."""


@dataclass(slots=True)
class Restart:
    """A service that died, and its successor.

    Attributes:
        beacon: newest beacon of the successor.
        deaths: monotonic times of the deaths that count.
        down_since: first death since it last served.
        is_seen: the watcher was there when it died.
        models: models whose layers it held.
        resumed_before: answers that had resumed before its death, by gateway boot.
        cut: answers that ran through it when it died; for a gateway.
        serving_at: when its successor served again; None before.
        told_at: when its effect on answers could first be known; None before.
        is_critical: it was reported as lost, or as not serving.
        is_closed: it was critical, and its end has been returned.
        reported: the last condition returned.
    """

    beacon: Beacon
    deaths: list[float]
    down_since: float
    is_seen: bool = True
    models: frozenset[str] = frozenset()
    resumed_before: dict[str, int] = field(default_factory=dict[str, int])
    cut: int = 0
    serving_at: float | None = None
    told_at: float | None = None
    effect: str = ""
    is_critical: bool = False
    is_closed: bool = False
    reported: Condition | None = None


class RestartRules:
    """Keeps the services that died within ``WINDOW_S``. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._restarts: dict[str, Restart] = {}
        self._resumed: dict[str, list[tuple[float, int]]] = {}

    def on_restart(self, death: Death, beacon: Beacon) -> None:
        """Records a death, with the first beacon of the successor."""
        facts = death.former.facts if death.former is not None else None
        fresh = Restart(
            beacon, [death.at], death.at, death.former is not None, is_critical=death.alerted
        )
        if isinstance(facts, StageWorkerFacts):
            fresh.models = frozenset(stage.model for stage in facts.stages)
        if isinstance(facts, GatewayFacts):
            fresh.cut = facts.running
        fresh.resumed_before = {
            boot: max(count for at, count in counts if at <= death.at or at == counts[0][0])
            for boot, counts in self._resumed.items()
        }
        known = self._restarts.get(beacon.name)
        if known is not None:
            fresh.deaths = [*known.deaths, death.at]
            fresh.models |= known.models
            fresh.reported = known.reported
            if known.serving_at is None:
                fresh.down_since = known.down_since
                fresh.resumed_before = known.resumed_before
                fresh.is_critical |= known.is_critical
        self._restarts[beacon.name] = fresh

    def on_beacon(self, beacon: Beacon, now: float) -> None:
        """Records a beacon: of a successor, or the count of a gateway's answers that resumed."""
        if known := self._restarts.get(beacon.name):
            known.beacon = beacon
        if isinstance(beacon.facts, GatewayFacts):
            counts = self._resumed.setdefault(beacon.boot, [])
            if not counts or counts[-1][1] != beacon.facts.resumed:
                counts.append((now, beacon.facts.resumed))
                del counts[:-MAX_COUNTS]
            for boot in list(self._resumed)[:-MAX_GATEWAYS]:
                del self._resumed[boot]

    def update(self, beacons: Mapping[str, Beacon], now: float) -> None:
        """Records which successors serve.

        Args:
            beacons: the newest beacon of each service that is not lost.
        """
        for name, restart in list(self._restarts.items()):
            restart.deaths = [at for at in restart.deaths if now - at <= WINDOW_S]
            waits = restart.serving_at is None and name in beacons
            if waits and serves(restart.beacon, restart.models, beacons):
                restart.serving_at = now
            if restart.serving_at is None:
                continue
            if restart.told_at is None and _is_told(restart, paused_answers(beacons), now):
                restart.told_at, restart.effect = now, _effect(restart, beacons)
            if not restart.deaths and restart.reported is None:
                del self._restarts[name]

    def conditions(self, now: float) -> list[Condition]:
        """Returns the restarts that people should know of now."""
        found: list[Condition] = []
        for node, restarts in self._started_with_the_watcher().items():
            if condition := _node_condition(node, restarts, now):
                found.append(condition)
        for restart in self._restarts.values():
            restart.reported = _condition(restart, now)
            if restart.reported is not None:
                found.append(restart.reported)
        return found

    def _started_with_the_watcher(self) -> dict[str, list[Restart]]:
        """Returns the restarts that are one event, by node; they are marked as reported."""
        nodes: dict[str, list[Restart]] = {}
        for restart in self._restarts.values():
            if not restart.is_seen and not restart.is_critical and len(restart.deaths) < 2:
                nodes.setdefault(restart.beacon.node, []).append(restart)
        several = {node: restarts for node, restarts in nodes.items() if len(restarts) > 1}
        for restart in (x for restarts in several.values() for x in restarts):
            restart.is_closed = True
        return several


def _is_told(restart: Restart, paused: int, now: float) -> bool:
    """Tells whether the effect of a death is known: answers that paused have gone on, or take
    longer. What happened while the watcher was away may be part of a restart of the node."""
    if restart.is_critical:
        return True
    if not restart.is_seen and now - restart.down_since < SERVING_DEADLINE_S:
        return False
    return not paused or now - (restart.serving_at or now) >= RESUME_S


def _condition(restart: Restart, now: float) -> Condition | None:
    if restart.is_closed:
        return None
    if restart.serving_at is None:
        if not restart.is_critical and now - restart.down_since < SERVING_DEADLINE_S:
            return restart.reported
        restart.is_critical = True
        return Condition(
            f"service_lost/{restart.beacon.name}",
            "critical",
            f"{_event(restart)}. It was started again, and does not serve yet.",
            now - restart.down_since,
        )
    if restart.told_at is None:
        return restart.reported
    is_loop = len(restart.deaths) > 1
    if restart.is_critical and not is_loop:
        restart.is_closed = True
    elif now - restart.told_at > (WINDOW_S if is_loop else CALM_S):
        return None
    down_s = restart.serving_at - restart.down_since
    after = f" after {duration(down_s)}" if restart.is_seen else ""
    return Condition(
        f"service_lost/{restart.beacon.name}",
        "critical" if restart.is_closed else "warning",
        f"{_event(restart)} and serves again{after}.{restart.effect}",
        now - min([*restart.deaths, restart.down_since]),
        now - restart.serving_at,
        max(1, len(restart.deaths)),
    )


def _node_condition(node: str, restarts: list[Restart], now: float) -> Condition | None:
    """Returns one condition for the services that were started together with the watcher."""
    began = min(restart.down_since for restart in restarts)
    is_serving = all(restart.told_at is not None for restart in restarts)
    if is_serving and now - max(x.told_at or 0.0 for x in restarts) > CALM_S:
        return None
    if not is_serving and now - began < SERVING_DEADLINE_S:
        return None
    names = ", ".join(sorted(x.beacon.name.removeprefix(f"{node}.") for x in restarts))
    state = "they serve again" if is_serving else "their models do not serve yet"
    return Condition(
        f"node_restarted/{node}",
        "warning",
        f"all of node {node} was started again without a shutdown before: {names}; {state}.",
        now - began,
    )


def _event(restart: Restart) -> str:
    """Says how often and why a service died."""
    beacon, count = restart.beacon, len(restart.deaths)
    title = f"{title_of(beacon)} on node {beacon.node} died"
    cause = beacon.former_end[:MAX_CAUSE_CHARACTERS].rstrip(". ").removeprefix("was ")
    if count < 2:
        return f"{title} ({cause})" if cause else title
    span = duration(restart.deaths[-1] - restart.deaths[0])
    return f"{title} {count} times in {span}{f' (the last time: {cause})' if cause else ''}"


def _effect(restart: Restart, beacons: Mapping[str, Beacon]) -> str:
    """Says what a death did to running answers, as far as the gateways tell."""
    if restart.beacon.facts.service == "gateway":
        return f" {_answers(restart.cut)} ran through it." if restart.cut else ""
    if restart.beacon.facts.service != "stage_worker":
        return ""
    resumed, longest_s, paused, is_told = 0, 0.0, 0, False
    for beacon in beacons.values():
        if isinstance(beacon.facts, GatewayFacts):
            is_told = True
            new = beacon.facts.resumed - restart.resumed_before.get(beacon.boot, 0)
            resumed += max(new, 0)
            longest_s = max(longest_s, beacon.facts.longest_pause_s if new > 0 else 0.0)
            paused += beacon.facts.paused
    parts = [f"{_answers(resumed)} paused {duration(longest_s)} and went on"] if resumed else []
    if paused:
        parts.append(f"{_answers(paused)} still {'waits' if paused == 1 else 'wait'}")
    if is_told and not parts:
        parts = ["No answer was running"]
    return f" {'; '.join(parts)}." if parts else ""


def _answers(count: int) -> str:
    return "1 answer" if count == 1 else f"{count} answers"


def duration(seconds: float) -> str:
    """Formats a time in seconds, or from 90 s on in minutes, rounded up."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{-(-int(seconds) // 60)} minutes"
