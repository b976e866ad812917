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
from pomona.messages.discovery import DiscoveryFacts, Hardware, NodeFacts
from pomona_health_watcher.alert_deduplication import Notice
from pomona_health_watcher.conditions import AlertThresholds, Condition
from pomona_health_watcher.rules import HealthRules
from pomona_health_watcher.slack_message import slack_message

_GIB: Final = 1 << 30
_MODEL: Final = "Qwen3-30B-A3B-4bit"
_WATCHER: Final = "studio.health_watcher"
_LONG_S: Final = 30
_LONGEST_S: Final = 600
_MACHINE: Final = Hardware("Apple M3 Ultra", 28, 64 * _GIB, 48 * _GIB, "macOS", "26.2")


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
    yield "a service dies again and again", _in_a_crash_loop("studio.gateway")
    yield "a service was started again and does not serve", _not_serving("studio.stage_worker.0")
    yield "a stage makes no progress", _of(_stage(), queued=3)
    yield "a worker was ended again and again", _of(_stage(stalled_at=(1.0, 2.0, 3.0)))
    full = _stage(resident_bytes=int(45.5 * _GIB), cache_bytes=9 * _GIB)
    yield "memory is short", _of(full)
    yield "memory is all but used up", _of(replace(full, resident_bytes=int(47.5 * _GIB)))
    broken = StageStatus(
        _MODEL, 4, 0, 24, "failed", 0, 0, "model-00002-of-00003.safetensors is cut short"
    )
    yield "a stage cannot be loaded", _of(_stage(stages=(broken,)))
    yield "a service has failed", _of(_stage(), state="failed")
    yield "a Mac panicked", _of(_stage(panicked_at=1.0))
    reason = "it needs 17.2 GB, the nodes have 12.0 GB"
    pipeline = Pipeline(_MODEL, "hub", 4, 48, "impossible", (), reason=reason)
    yield "a model fits on no nodes", _of(PlannerFacts((pipeline,)))
    denied = "macOS denies Pomona the Local Network: mini at 192.168.1.7 is refused"
    yield "macOS denies the local network", _of(DiscoveryFacts(_MACHINE, troubles=(denied,)))
    full_disk = NodeFacts(disk_free_bytes=41 * 10**9, disk_bytes=994 * 10**9)
    yield "a disk is nearly full", _of(DiscoveryFacts(_MACHINE, machine=full_disk))
    yield "nodes have different versions of Pomona", _with_another_version()
    updated = DiscoveryFacts(replace(_MACHINE, os_version="26.3"))
    yield "nodes have different versions of macOS", _of(updated)


def _stage(**fields: object) -> StageWorkerFacts:
    facts = StageWorkerFacts("metal", 48 * _GIB, 20 * _GIB)
    return replace(facts, **fields)  # pyright: ignore[reportArgumentType]


def _beacon(name: str, facts: Facts, boot: str = "first") -> Beacon:
    node = name.partition(".")[0]
    return Beacon("pomona", name, node, boot, 1, "1", 1, "ready", 0, 0, {}, facts)


def _cluster() -> dict[str, Beacon]:
    beacons = (
        _beacon(_WATCHER, HealthWatcherFacts()),
        _beacon("studio.discovery", DiscoveryFacts(_MACHINE)),
        _beacon("studio.planner", PlannerFacts()),
        _beacon("studio.gateway", GatewayFacts("http://127.0.0.1:52415")),
        _beacon("studio.stage_worker.0", _stage()),
        _beacon("mini.discovery", DiscoveryFacts(_MACHINE)),
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
        """Delivers a beacon of each service. Returns the conditions."""
        self.now += BEACON_INTERVAL_S
        for beacon in beacons.values():
            self.leases.observe(replace(beacon, seq=int(self.now)), self.now)
            lease = self.leases.get(beacon.name)
            if lease is not None:
                self.rules.on_lease(lease, self.now)
        return self.rules.evaluate(self.now)

    def first(self, beacons: dict[str, Beacon]) -> Condition:
        """Returns the first condition while ``beacons`` are all that arrives."""
        for _ in range(_LONGEST_S):
            if found := self.second(beacons):
                return found[0]
        raise AssertionError("the rules found nothing")


def _after(beacons: dict[str, Beacon]) -> Condition:
    """Returns the first condition after a healthy start, when ``beacons`` follow it."""
    rules = _Rules()
    for _ in range(3):
        rules.second(_cluster())
    return rules.first(beacons)


def _after_silence(*names: str) -> Condition:
    if names == ("studio.discovery",):
        # All beacons pass through it.
        return _after({})
    return _after({name: x for name, x in _cluster().items() if name not in names})


def _after_restart(name: str) -> Condition:
    cluster = _cluster()
    former = cluster[name]
    if isinstance(former.facts, GatewayFacts):
        before = replace(former, facts=replace(former.facts, running=3))
    elif isinstance(former.facts, StageWorkerFacts):
        before = former
        gateway = cluster["studio.gateway"]
        assert isinstance(gateway.facts, GatewayFacts)
        facts = replace(gateway.facts, resumed=4, longest_pause_s=5.0)
        cluster |= {gateway.name: replace(gateway, facts=facts)}
    else:
        before = former
    rules = _Rules()
    for _ in range(3):
        rules.second(_cluster() | {name: before})
    for _ in range(2):
        rules.second({key: x for key, x in cluster.items() if key != name})
    return rules.first(cluster | {name: _successor(former, "second")})


def _in_a_crash_loop(name: str) -> Condition:
    cluster = _cluster()
    rules = _Rules()
    rules.second(cluster)
    found: list[Condition] = []
    for number in range(4):
        for _ in range(_LONG_S):
            found = rules.second(cluster | {name: _successor(cluster[name], f"boot {number}")})
    return found[0]


def _not_serving(name: str) -> Condition:
    starting = replace(_successor(_cluster()[name], "second"), state="starting")
    return _after(_cluster() | {name: starting})


def _with_another_version() -> Condition:
    cluster = _cluster()
    for name in ("mini.discovery", "mini.stage_worker.0"):
        cluster[name] = replace(cluster[name], version="2")
    return _after(cluster)


def _successor(former: Beacon, boot: str) -> Beacon:
    return replace(former, boot=boot, former_end="was killed by SIGKILL")


def _of(facts: Facts, queued: int = 0, state: str = "ready") -> Condition:
    service = "stage_worker.0" if facts.service == "stage_worker" else facts.service
    name = f"studio.{service}"
    beacon = replace(_beacon(name, facts), queued=queued)
    if state == "failed":
        beacon = replace(beacon, state="failed")
    return _after(_cluster() | {name: beacon})
