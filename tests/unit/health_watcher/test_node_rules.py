"""Versions that differ between nodes, and disks that fill up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.messages.discovery import NodeFacts
from pomona_health_watcher.node_rules import SKEW_AFTER_S, NodeRules
from support.beacons import HARDWARE, beacon_of
from support.watched_cluster import WatchedCluster


def disk(free: int) -> dict[str, object]:
    return {"machine": NodeFacts(disk_free_bytes=free, disk_bytes=100)}


def test_different_versions_are_a_warning_after_the_time_of_a_rolling_update() -> None:
    cluster = WatchedCluster()
    same = cluster.running["other.discovery"]
    cluster.running["other.discovery"] = replace(same, version="older")
    assert cluster.run(SKEW_AFTER_S - 5) == set()
    assert "version_skew/cluster" in cluster.run(10)
    (condition,) = cluster.conditions()
    assert condition.severity == "warning"
    assert "older on other" in condition.summary
    assert f"{same.version} on mac, other" in condition.summary
    cluster.running["other.discovery"] = same
    cluster.run(2)
    assert cluster.keys() == set()


def test_skew_that_ended_and_began_again_counts_from_its_new_start() -> None:
    rules = NodeRules(0.1)
    mixed = [beacon_of("discovery", "a"), beacon_of("discovery", "b", version="older")]
    assert rules.evaluate(mixed, 0.0) == []
    assert rules.evaluate(mixed[:1], 10.0) == []
    assert rules.evaluate(mixed, 20.0) == []
    assert rules.evaluate(mixed, 15.0 + SKEW_AFTER_S) == []
    assert [x.key for x in rules.evaluate(mixed, 20.0 + SKEW_AFTER_S)] == ["version_skew/cluster"]


@pytest.mark.parametrize(("os_name", "keys"), [("macOS", ["macos_skew/cluster"]), ("Linux", [])])
def test_only_macs_are_compared_for_their_macos_version(os_name: str, keys: list[str]) -> None:
    rules = NodeRules(0.1)
    other = replace(HARDWARE, os_name=os_name, os_version="6.1")
    beacons = [
        beacon_of("discovery", "a"),
        beacon_of("discovery", "b", facts={"hardware": other}),
    ]
    rules.evaluate(beacons, 0.0)
    assert [x.key for x in rules.evaluate(beacons, SKEW_AFTER_S)] == keys


def test_a_disk_alert_ends_only_when_it_is_clearly_over() -> None:
    rules = NodeRules(0.10)

    def keys(free: int) -> list[str]:
        beacon = beacon_of("discovery", "a", facts=disk(free))
        return [x.key for x in rules.evaluate([beacon], 0.0)]

    assert keys(11) == []
    assert keys(9) == ["disk/a"]
    assert keys(11) == ["disk/a"]
    assert keys(13) == []
    assert keys(11) == []


@pytest.mark.parametrize(("threshold", "facts"), [(0.0, disk(1)), (0.1, {})])
def test_no_disk_alert_without_a_threshold_or_a_known_size(
    threshold: float, facts: dict[str, object]
) -> None:
    beacon = beacon_of("discovery", "a", facts=facts)
    assert NodeRules(threshold).evaluate([beacon], 0.0) == []
