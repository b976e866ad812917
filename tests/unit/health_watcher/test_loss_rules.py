"""Lost services and nodes: which are reported, when, and until when."""

from __future__ import annotations

import pytest

from pomona.leases import LEASE_S, LeaseTable
from pomona.messages.control import Beacon, ServiceName
from pomona_health_watcher.loss_rules import (
    FORGET_AFTER_S,
    RETURN_GRACE_S,
    SETTLE_S,
    START_GRACE_S,
    KnownService,
    LossRules,
)
from support.beacons import beacon_of
from support.watched_cluster import WatchedCluster

LOSS_S = LEASE_S + SETTLE_S + 1.0
"""Seconds within which a loss is reported."""


# Losses --------------------------------------------------------------------------------


def test_a_healthy_cluster_has_nothing_wrong() -> None:
    cluster = WatchedCluster()
    assert cluster.run(120) == set()


@pytest.mark.parametrize("name", ["mac.planner", "mac.gateway", "mac.stage_worker"])
def test_a_lost_service_is_reported_soon_after_its_lease_until_it_is_back(
    name: str,
) -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    killed = cluster.kill(name)
    assert cluster.run(LEASE_S - 1) == set()
    cluster.run(LOSS_S)
    assert cluster.keys() == {f"service_lost/{name}"}
    cluster.add(killed[name].facts.service, boot="boot2")
    cluster.run(1)
    assert cluster.keys() == set()


def test_a_drained_service_is_not_reported() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.drain("mac.gateway")
    assert cluster.run(60) == set()
    cluster.add("gateway", boot="boot2")
    assert cluster.run(10) == set()


def test_a_drained_service_that_is_back_within_its_lease_did_not_die() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.drain("mac.gateway")
    cluster.add("gateway", boot="boot2")
    assert cluster.run(30) == set()


def test_silence_shorter_than_the_settling_time_is_ignored() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.muted.add("mac.gateway")
    cluster.run(LEASE_S)
    cluster.muted.clear()
    assert cluster.run(30) == set()


def test_a_lost_node_is_one_alert() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.kill("other.discovery", "other.stage_worker")
    assert cluster.run(60) == {"node_lost/other"}
    [condition] = cluster.conditions()
    assert "other.discovery, other.stage_worker" in condition.summary


def test_services_of_a_lost_node_that_fall_silent_a_beacon_apart_are_one_alert() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.kill("other.stage_worker")
    cluster.run(1)
    cluster.kill("other.discovery")
    assert cluster.run(60) == {"node_lost/other"}


def test_a_node_whose_services_come_back_one_by_one_raises_no_more_alerts() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.kill("other.discovery", "other.stage_worker")
    cluster.run(LOSS_S)
    cluster.add("discovery", "other", boot="boot2")
    cluster.run(1)
    assert cluster.run(RETURN_GRACE_S - 2) == set()
    cluster.add("stage_worker", "other", boot="boot2")
    assert cluster.run(30) == set()


def test_a_service_that_does_not_come_back_with_its_node_is_lost() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.kill("other.discovery", "other.stage_worker")
    cluster.run(LOSS_S)
    cluster.add("discovery", "other", boot="boot2")
    cluster.run(RETURN_GRACE_S + 2)
    assert cluster.keys() == {"service_lost/other.stage_worker"}


def test_a_service_lost_before_its_node_keeps_its_own_alert() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.kill("other.stage_worker")
    cluster.run(LOSS_S)
    cluster.kill("other.discovery")
    cluster.run(LOSS_S)
    assert cluster.keys() == {"service_lost/other.stage_worker", "node_lost/other"}


def test_a_lost_service_that_never_returns_is_forgotten_after_a_day() -> None:
    rules = LossRules("mac.health_watcher", "own", "mac", 0.0)
    leases = LeaseTable()

    def deliver(beacon: Beacon, now: float) -> None:
        leases.observe(beacon, now)
        lease = leases.get(beacon.name)
        assert lease is not None
        rules.on_lease(lease, now)

    deliver(beacon_of("gateway"), 0.0)
    keys: list[set[str]] = []
    for step in range(int(FORGET_AFTER_S) + 60):
        now = float(step)
        deliver(beacon_of("health_watcher", boot="own", seq=step + 1), now)
        if step % 600 < 30 or step > FORGET_AFTER_S:
            keys.append({condition.key for condition in rules.evaluate(now)})
    assert {"service_lost/mac.gateway"} in keys
    assert keys[-1] == set()


# Disconnection of the watcher ----------------------------------------------------------


def test_the_death_of_this_nodes_discovery_is_the_only_alert() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.kill("mac.discovery")
    assert cluster.run(120) == {"service_lost/mac.discovery"}
    cluster.add("discovery", boot="boot2")
    assert cluster.run(0.25) <= {"service_lost/mac.discovery"}
    assert cluster.run(60) == set(), "it was reported already"


def test_a_service_that_died_while_the_watcher_was_disconnected_is_reported_afterwards() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.kill("mac.discovery", "mac.gateway")
    cluster.run(10)
    assert cluster.keys() == {"service_lost/mac.discovery"}
    cluster.add("discovery", boot="boot2")
    cluster.run(RETURN_GRACE_S + LOSS_S)
    assert cluster.keys() == {"service_lost/mac.gateway"}


def test_silence_after_discovery_drained_is_no_alert() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.drain("mac.discovery")
    assert cluster.run(60) == set()


def test_a_watcher_that_never_receives_a_beacon_reports_discovery_as_lost() -> None:
    cluster = WatchedCluster(others=False)
    assert cluster.run(START_GRACE_S - 1) == set()
    assert cluster.run(5) == {"service_lost/mac.discovery"}


def test_a_watcher_that_was_suspended_reports_nobody_as_lost() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.now += 300
    assert cluster.keys() == set(), "beacons sent meanwhile are not read yet"
    assert cluster.run(60) == set()


# Restarts of the watcher ---------------------------------------------------------------

GATEWAY = KnownService("mac.gateway", "mac", "gateway", "boot1", "ready")


def test_a_service_that_died_while_the_watcher_was_away_is_reported() -> None:
    cluster = WatchedCluster([GATEWAY])
    cluster.kill("mac.gateway")
    assert cluster.run(RETURN_GRACE_S - 1) == set()
    cluster.run(LOSS_S + 1)
    assert cluster.keys() == {"service_lost/mac.gateway"}


def test_a_reported_loss_holds_over_a_restart_until_the_service_is_back() -> None:
    lost = KnownService("mac.gateway", "mac", "gateway", "boot1", "ready", lost=True, alerted=True)
    cluster = WatchedCluster([lost])
    cluster.kill("mac.gateway")
    assert cluster.keys() == {"service_lost/mac.gateway"}
    cluster.run(30)
    assert cluster.keys() == {"service_lost/mac.gateway"}
    cluster.add("gateway", boot="boot2")
    cluster.run(1)
    assert cluster.keys() == set()


def test_a_reported_lost_node_is_still_one_alert_after_a_restart() -> None:
    services: tuple[ServiceName, ...] = ("discovery", "stage_worker")
    known = [
        KnownService(f"other.{x}", "other", x, "boot1", "ready", lost=True, alerted_with_node=True)
        for x in services
    ]
    cluster = WatchedCluster(known)
    cluster.kill("other.discovery", "other.stage_worker")
    assert cluster.run(60) == {"node_lost/other"}


def test_the_next_process_reports_the_same_losses() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.kill("mac.gateway", "other.discovery", "other.stage_worker")
    cluster.run(LOSS_S)
    before = cluster.keys()
    assert before == {"service_lost/mac.gateway", "node_lost/other"}
    successor = WatchedCluster(cluster.rules.known_services(), others=False)
    assert successor.keys() == before
