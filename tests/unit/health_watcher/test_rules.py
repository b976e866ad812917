"""What the health watcher takes for wrong, and what not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from pomona.leases import LEASE_S, LeaseTable
from pomona.messages.control import Beacon, Pipeline, ServiceName, StageStatus
from pomona_health_watcher.rules import (
    FORGET_AFTER_S,
    RETURN_GRACE_S,
    SETTLE_S,
    START_GRACE_S,
    AlertThresholds,
    Condition,
    HealthRules,
    Known,
)
from support.beacons import GIB, beacon_of

STEP_S = 0.25
SERVICES: tuple[ServiceName, ...] = ("discovery", "planner", "gateway", "stage_worker")
LOSS_S = LEASE_S + SETTLE_S + 1.0
"""Seconds within which a loss is said."""


class Cluster:
    """Services that speak once a second, and a watcher on node ``mac`` that listens.

    ``mac`` runs one of each service; ``other`` a discovery service and a stage worker.
    """

    def __init__(self, known: Iterable[Known] = (), others: bool = True) -> None:
        self.now = 100.0
        self.rules = HealthRules(
            "mac.health_watcher", "own", "mac", AlertThresholds(), self.now, known
        )
        self.leases = LeaseTable()
        self.speaking: dict[str, Beacon] = {}
        self.incidents: list[Condition] = []
        self.mute: set[str] = set()
        self.seq = 0
        self.add("health_watcher", boot="own")
        if others:
            for service in SERVICES:
                self.add(service)
            self.add("discovery", "other")
            self.add("stage_worker", "other")
        self._spoke_at = -1e9

    def add(self, service: ServiceName, node: str = "mac", **fields: Any) -> None:
        beacon = beacon_of(service, node, **fields)
        self.speaking[beacon.name] = beacon
        self._spoke_at = -1e9

    def kill(self, *names: str) -> dict[str, Beacon]:
        return {name: self.speaking.pop(name) for name in names}

    def farewell(self, name: str) -> None:
        beacon = self.speaking.pop(name)
        self.seq += 1
        self._hear(replace(beacon, state="draining"))

    def run(self, seconds: float) -> set[str]:
        """Let time pass; the keys of all that was wrong at some moment."""
        seen: set[str] = set()
        end = self.now + seconds
        while self.now < end:
            self.now += STEP_S
            if self.now - self._spoke_at >= 1.0:
                self._spoke_at = self.now
                self.seq += 1
                if "mac.discovery" in self.speaking:
                    for name, beacon in self.speaking.items():
                        if name not in self.mute:
                            self._hear(beacon)
            seen |= self.wrong()
        return seen

    def wrong(self) -> set[str]:
        return {condition.key for condition in self.conditions()}

    def conditions(self) -> list[Condition]:
        return self.rules.judge(self.now)

    def _hear(self, beacon: Beacon) -> None:
        fresh = replace(beacon, seq=self.seq)
        if self.leases.observe(fresh, self.now):
            lease = self.leases.get(fresh.name)
            assert lease is not None
            self.incidents += self.rules.on_lease(lease, self.now)


# Losses --------------------------------------------------------------------------------


def test_a_healthy_cluster_has_nothing_wrong() -> None:
    cluster = Cluster()
    assert cluster.run(120) == set()
    assert cluster.incidents == []


@pytest.mark.parametrize("name", ["mac.planner", "mac.gateway", "mac.stage_worker"])
def test_a_lost_service_is_said_within_its_lease_and_a_bit_and_ends_when_it_is_back(
    name: str,
) -> None:
    cluster = Cluster()
    cluster.run(5)
    killed = cluster.kill(name)
    assert cluster.run(LEASE_S - 1) == set()
    cluster.run(LOSS_S)
    assert cluster.wrong() == {f"service_lost/{name}"}
    cluster.add(killed[name].facts.service, boot="boot2")
    cluster.run(1)
    assert cluster.wrong() == set()
    assert cluster.incidents == [], "it was told already"


def test_a_service_that_said_goodbye_is_not_missed() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.farewell("mac.gateway")
    assert cluster.run(60) == set()
    cluster.add("gateway", boot="boot2")
    assert cluster.run(10) == set()
    assert cluster.incidents == []


def test_a_service_that_says_goodbye_and_is_back_within_its_lease_did_not_die() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.farewell("mac.gateway")
    cluster.add("gateway", boot="boot2")
    assert cluster.run(30) == set()
    assert cluster.incidents == []


@pytest.mark.parametrize("away_s", [0.0, 2.0, LEASE_S + 0.75])
def test_a_service_that_died_and_is_back_before_that_was_said_is_an_incident(
    away_s: float,
) -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.kill("mac.gateway")
    cluster.run(away_s)
    cluster.add("gateway", boot="boot2")
    assert cluster.run(30) == set()
    assert [x.key for x in cluster.incidents] == ["service_lost/mac.gateway"]
    assert "died and was started again" in cluster.incidents[0].summary


def test_silence_shorter_than_the_settling_time_is_nothing() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.mute.add("mac.gateway")
    cluster.run(LEASE_S)
    cluster.mute.clear()
    assert cluster.run(30) == set()
    assert cluster.incidents == []


def test_a_lost_node_is_one_alert() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.kill("other.discovery", "other.stage_worker")
    assert cluster.run(60) == {"node_lost/other"}
    [condition] = cluster.conditions()
    assert "other.discovery, other.stage_worker" in condition.summary


def test_services_of_a_lost_node_that_fell_silent_a_beacon_apart_are_still_one_alert() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.kill("other.stage_worker")
    cluster.run(1)
    cluster.kill("other.discovery")
    assert cluster.run(60) == {"node_lost/other"}


def test_a_node_that_comes_back_piece_by_piece_is_no_flood() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.kill("other.discovery", "other.stage_worker")
    cluster.run(LOSS_S)
    cluster.add("discovery", "other", boot="boot2")
    cluster.run(1)
    assert cluster.run(RETURN_GRACE_S - 2) == set()
    cluster.add("stage_worker", "other", boot="boot2")
    assert cluster.run(30) == set()
    assert cluster.incidents == []


def test_a_service_that_does_not_come_back_with_its_node_is_lost() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.kill("other.discovery", "other.stage_worker")
    cluster.run(LOSS_S)
    cluster.add("discovery", "other", boot="boot2")
    cluster.run(RETURN_GRACE_S + 2)
    assert cluster.wrong() == {"service_lost/other.stage_worker"}


def test_a_service_lost_before_its_node_stays_an_alert_beside_it() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.kill("other.stage_worker")
    cluster.run(LOSS_S)
    cluster.kill("other.discovery")
    cluster.run(LOSS_S)
    assert cluster.wrong() == {"service_lost/other.stage_worker", "node_lost/other"}


def test_a_lost_service_that_never_returns_is_forgotten_after_a_day() -> None:
    rules = HealthRules("mac.health_watcher", "own", "mac", AlertThresholds(), 0.0)
    leases = LeaseTable()

    def hear(beacon: Beacon, now: float) -> None:
        leases.observe(beacon, now)
        lease = leases.get(beacon.name)
        assert lease is not None
        rules.on_lease(lease, now)

    hear(beacon_of("gateway"), 0.0)
    keys: list[set[str]] = []
    for step in range(int(FORGET_AFTER_S) + 60):
        now = float(step)
        hear(beacon_of("health_watcher", boot="own", seq=step + 1), now)
        if step % 600 < 30 or step > FORGET_AFTER_S:
            keys.append({condition.key for condition in rules.judge(now)})
    assert {"service_lost/mac.gateway"} in keys
    assert keys[-1] == set()


# Deafness ------------------------------------------------------------------------------


def test_when_discovery_of_this_node_dies_that_is_the_one_alert() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.kill("mac.discovery")
    assert cluster.run(120) == {"service_lost/mac.discovery"}
    cluster.add("discovery", boot="boot2")
    assert cluster.run(0.25) <= {"service_lost/mac.discovery"}
    assert cluster.run(60) == set()
    assert cluster.incidents == [], "it was told already"


@pytest.mark.parametrize("away_s", [0.0, 1.0, 2.0])
def test_a_discovery_that_is_back_before_we_were_deaf_is_an_incident(away_s: float) -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.kill("mac.discovery")
    cluster.run(away_s)
    cluster.add("discovery", boot="boot2")
    assert cluster.run(60) == set()
    assert [x.key for x in cluster.incidents] == ["service_lost/mac.discovery"]


def test_who_died_while_we_were_deaf_is_said_when_we_hear_again() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.kill("mac.discovery", "mac.gateway")
    cluster.run(10)
    assert cluster.wrong() == {"service_lost/mac.discovery"}
    cluster.add("discovery", boot="boot2")
    cluster.run(RETURN_GRACE_S + LOSS_S)
    assert cluster.wrong() == {"service_lost/mac.gateway"}


def test_a_discovery_that_said_goodbye_leaves_silence_without_an_alert() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.farewell("mac.discovery")
    assert cluster.run(60) == set()


def test_a_watcher_that_never_hears_anybody_says_so_in_time() -> None:
    cluster = Cluster(others=False)
    assert cluster.run(START_GRACE_S - 1) == set()
    assert cluster.run(5) == {"service_lost/mac.discovery"}


def test_a_watcher_that_was_stopped_for_a_while_blames_nobody() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.now += 300
    assert cluster.wrong() == set(), "what was sent meanwhile is not read yet"
    assert cluster.run(60) == set()


# Memory of a former process ------------------------------------------------------------

GATEWAY = Known("mac.gateway", "mac", "gateway", "boot1", "ready")


def test_a_service_that_died_while_the_watcher_was_away_is_said() -> None:
    cluster = Cluster([GATEWAY])
    cluster.kill("mac.gateway")
    assert cluster.run(RETURN_GRACE_S - 1) == set()
    cluster.run(LOSS_S + 1)
    assert cluster.wrong() == {"service_lost/mac.gateway"}


def test_a_service_that_was_restarted_while_the_watcher_was_away_is_an_incident() -> None:
    cluster = Cluster([GATEWAY])
    cluster.add("gateway", boot="boot2")
    assert cluster.run(60) == set()
    assert [x.key for x in cluster.incidents] == ["service_lost/mac.gateway"]


def test_a_loss_that_was_told_holds_over_a_restart_until_the_service_is_back() -> None:
    lost = Known("mac.gateway", "mac", "gateway", "boot1", "ready", lost=True, alone=True)
    cluster = Cluster([lost])
    cluster.kill("mac.gateway")
    assert cluster.wrong() == {"service_lost/mac.gateway"}
    cluster.run(30)
    assert cluster.wrong() == {"service_lost/mac.gateway"}
    cluster.add("gateway", boot="boot2")
    cluster.run(1)
    assert (cluster.wrong(), cluster.incidents) == (set(), [])


def test_a_lost_node_that_was_told_is_still_one_alert_after_a_restart() -> None:
    services: tuple[ServiceName, ...] = ("discovery", "stage_worker")
    known = [
        Known(f"other.{x}", "other", x, "boot1", "ready", lost=True, with_node=True)
        for x in services
    ]
    cluster = Cluster(known)
    cluster.kill("other.discovery", "other.stage_worker")
    assert cluster.run(60) == {"node_lost/other"}


def test_what_is_known_can_be_handed_to_a_successor() -> None:
    cluster = Cluster()
    cluster.run(5)
    cluster.kill("mac.gateway", "other.discovery", "other.stage_worker")
    cluster.run(LOSS_S)
    before = cluster.wrong()
    assert before == {"service_lost/mac.gateway", "node_lost/other"}
    successor = Cluster(cluster.rules.known(), others=False)
    assert successor.wrong() == before


# Troubles that services tell -----------------------------------------------------------


def worker(**facts: Any) -> dict[str, Any]:
    return {"facts": facts}


def test_a_stage_that_stands_still_while_work_waits_is_stalled() -> None:
    cluster = Cluster()
    cluster.add("stage_worker", queued=3, progress=41)
    assert cluster.run(AlertThresholds().stall_after_s - 2) == set()
    cluster.run(4)
    assert cluster.wrong() == {"stalled/mac.stage_worker"}
    cluster.add("stage_worker", queued=3, progress=42)
    cluster.run(1)
    assert cluster.wrong() == set()


@pytest.mark.parametrize("fields", [{"queued": 0}, {"queued": 3, "state": "starting"}])
def test_a_stage_without_work_or_still_loading_is_not_stalled(fields: dict[str, Any]) -> None:
    cluster = Cluster()
    cluster.add("stage_worker", progress=41, **fields)
    assert cluster.run(120) == set()


def test_a_stall_is_not_judged_while_we_are_deaf() -> None:
    cluster = Cluster()
    cluster.add("stage_worker", queued=3, progress=41)
    cluster.run(5)
    cluster.kill("mac.discovery")
    assert cluster.run(60) == {"service_lost/mac.discovery"}


@pytest.mark.parametrize(
    ("resident", "cache", "severity"),
    [
        (8.9, 1.0, None),
        (9.1, 1.0, "warning"),
        (9.8, 1.0, "critical"),
        (1.0, 9.1, "warning"),
        (11.0, 1.0, "critical"),
    ],
)
def test_memory_pressure_by_its_thresholds(
    resident: float, cache: float, severity: str | None
) -> None:
    cluster = Cluster()
    cluster.add(
        "stage_worker",
        facts={
            "usable_memory_bytes": 10 * GIB,
            "resident_bytes": int(resident * GIB),
            "cache_bytes": int(cache * GIB),
        },
    )
    cluster.run(3)
    found = [(x.key, x.severity) for x in cluster.conditions()]
    assert found == ([("memory/mac.stage_worker", severity)] if severity else [])


def test_memory_around_a_threshold_does_not_flap() -> None:
    cluster = Cluster()

    def use(share: float) -> set[str]:
        facts = {"usable_memory_bytes": 1000, "resident_bytes": int(1000 * share)}
        cluster.add("stage_worker", facts=facts)
        cluster.run(1)
        return cluster.wrong()

    assert use(0.91)
    assert use(0.89)
    assert not use(0.84)
    assert not use(0.89)


def test_a_worker_that_does_not_know_its_memory_is_not_under_pressure() -> None:
    cluster = Cluster()
    cluster.add("stage_worker", facts={"usable_memory_bytes": 0, "resident_bytes": GIB})
    assert cluster.run(5) == set()


def test_a_failed_stage_is_said_with_its_reason_once() -> None:
    cluster = Cluster()
    stage = StageStatus("smol", 3, 0, 15, "failed", error="model.gguf: tensor output missing")
    cluster.add("stage_worker", state="failed", facts={"stages": (stage,)})
    cluster.run(2)
    [condition] = cluster.conditions()
    assert condition.key == "stage_failed/mac.stage_worker/smol"
    assert "layers 0 to 14" in condition.summary
    assert "tensor output missing" in condition.summary


def test_a_service_that_says_it_failed_is_said() -> None:
    cluster = Cluster()
    cluster.add("planner", state="failed")
    cluster.run(2)
    assert cluster.wrong() == {"service_failed/mac.planner"}


def test_a_pipeline_is_an_alert_when_it_stays_impossible() -> None:
    cluster = Cluster()
    pipeline = Pipeline("big", "/big", 4, 60, "impossible", reason="40 GiB are missing")
    cluster.add("planner", facts={"pipelines": (pipeline,)})
    assert cluster.run(AlertThresholds().impossible_after_s - 2) == set()
    cluster.run(4)
    [condition] = cluster.conditions()
    assert condition.key == "pipeline/big"
    assert "40 GiB are missing" in condition.summary
    cluster.add("planner")
    cluster.run(1)
    assert cluster.wrong() == set()


def test_a_trouble_does_not_end_because_its_teller_died() -> None:
    cluster = Cluster()
    cluster.add("stage_worker", facts={"usable_memory_bytes": 100, "resident_bytes": 99})
    cluster.run(5)
    cluster.kill("mac.stage_worker")
    cluster.run(LOSS_S)
    assert cluster.wrong() == {"memory/mac.stage_worker", "service_lost/mac.stage_worker"}
    cluster.add("stage_worker", boot="boot2")
    cluster.run(1)
    assert cluster.wrong() == set()
