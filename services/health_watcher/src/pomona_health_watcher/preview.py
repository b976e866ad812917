"""The texts of all kinds of alerts, from the rules themselves, in a cluster that does not exist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from pomona.leases import BEACON_INTERVAL_S, LeaseTable
from pomona.messages.control import (
    Alert,
    Beacon,
    Facts,
    GatewayFacts,
    HealthWatcherFacts,
    Pipeline,
    PlannerFacts,
    StageStatus,
    StageWorkerFacts,
)
from pomona.messages.discovery import DiscoveryFacts, Hardware
from pomona_health_watcher.alert_deduplication import Notice
from pomona_health_watcher.conditions import AlertThresholds, Condition
from pomona_health_watcher.rules import HealthRules
from pomona_health_watcher.slack_message import slack_message

_GIB: Final = 1 << 30
_MODEL: Final = "Qwen3-30B-A3B-4bit"
_WATCHER: Final = "studio.health_watcher"
_LONG_S: Final = 30


def preview(cluster: str) -> list[tuple[str, str]]:
    """Returns the name of each fault with the text that a phone or watch shows for it."""
    found: list[tuple[str, str]] = []
    for fault, condition in _faults():
        alert = Alert(condition.key, condition.severity, condition.summary, 0.0)
        text = str(slack_message(Notice("raised", alert, 0.0), cluster)["text"])
        found.append((fault, text))
    return found


def _faults() -> Iterator[tuple[str, Condition]]:
    for service in ("gateway", "planner", "stage_worker.0", "discovery"):
        yield f"{service.partition('.')[0]} is gone", _after_silence(f"studio.{service}")
    yield "a whole node is gone", _after_silence("mini.discovery", "mini.stage_worker.0")
    for service in ("gateway", "planner", "stage_worker.0", "discovery"):
        yield f"{service.partition('.')[0]} died and came back", _after_restart(f"studio.{service}")
    yield "a stage makes no progress", _of(_stage(), queued=3)
    full = _stage(resident_bytes=int(45.5 * _GIB), cache_bytes=9 * _GIB)
    yield "memory is short", _of(full)
    yield "memory is all but used up", _of(replace(full, resident_bytes=int(47.5 * _GIB)))
    broken = StageStatus(
        _MODEL, 4, 0, 24, "failed", 0, 0, "model-00002-of-00003.safetensors is cut short"
    )
    yield "a stage cannot be loaded", _of(_stage(stages=(broken,)))
    yield "a service has failed", _of(_stage(), state="failed")
    pipeline = Pipeline(
        _MODEL,
        "hub",
        4,
        48,
        "impossible",
        (),
        reason="it needs 17.2 GB, the nodes have 12.0 GB",
    )
    yield "a model fits on no nodes", _of(PlannerFacts((pipeline,)))


def _stage(**fields: object) -> StageWorkerFacts:
    facts = StageWorkerFacts("metal", 48 * _GIB, 20 * _GIB)
    return replace(facts, **fields)  # pyright: ignore[reportArgumentType]


def _beacon(name: str, facts: Facts, boot: str = "first") -> Beacon:
    node = name.partition(".")[0]
    return Beacon("pomona", name, node, boot, 1, "1", 1, "ready", 0, 0, {}, facts)


def _cluster() -> dict[str, Beacon]:
    machine = Hardware("Apple M3 Ultra", 28, 64 * _GIB, 48 * _GIB, "macOS", "26.2")
    beacons = (
        _beacon(_WATCHER, HealthWatcherFacts()),
        _beacon("studio.discovery", DiscoveryFacts(machine)),
        _beacon("studio.planner", PlannerFacts()),
        _beacon("studio.gateway", GatewayFacts("http://127.0.0.1:52415")),
        _beacon("studio.stage_worker.0", _stage()),
        _beacon("mini.discovery", DiscoveryFacts(machine)),
        _beacon("mini.stage_worker.0", _stage()),
    )
    return {beacon.name: beacon for beacon in beacons}


class _Rules:
    """The rules, in simulated seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.leases = LeaseTable()
        self.rules = HealthRules(_WATCHER, "first", "studio", AlertThresholds(), self.now)

    def second(self, beacons: dict[str, Beacon]) -> list[Condition]:
        """Delivers a beacon of each service. Returns incidents and conditions."""
        self.now += BEACON_INTERVAL_S
        found: list[Condition] = []
        for beacon in beacons.values():
            self.leases.observe(replace(beacon, seq=int(self.now)), self.now)
            lease = self.leases.get(beacon.name)
            if lease is not None:
                found += self.rules.on_lease(lease, self.now)
        return found + self.rules.evaluate(self.now)


def _after(beacons: dict[str, Beacon]) -> Condition:
    """Returns the first condition after a healthy start, when ``beacons`` follow it."""
    rules = _Rules()
    for _ in range(3):
        rules.second(_cluster())
    for _ in range(_LONG_S):
        if found := rules.second(beacons):
            return found[0]
    raise AssertionError("the rules found nothing")


def _after_silence(*names: str) -> Condition:
    if names == ("studio.discovery",):
        # All beacons pass through it.
        return _after({})
    return _after({name: x for name, x in _cluster().items() if name not in names})


def _after_restart(name: str) -> Condition:
    cluster = _cluster()
    return _after(cluster | {name: replace(cluster[name], boot="second")})


def _of(facts: StageWorkerFacts | PlannerFacts, queued: int = 0, state: str = "ready") -> Condition:
    name = "studio.planner" if isinstance(facts, PlannerFacts) else "studio.stage_worker.0"
    beacon = replace(_beacon(name, facts), queued=queued)
    if state == "failed":
        beacon = replace(beacon, state="failed")
    return _after(_cluster() | {name: beacon})
