"""The lines that ``pomona up`` prints for beacons."""

from __future__ import annotations

from dataclasses import replace

from pomona.messages.control import (
    Beacon,
    HealthWatcherFacts,
    PlannerFacts,
    StageWorkerFacts,
)
from pomona_ops.up.event_formatter import IMPOSSIBLE_AFTER_S, EventFormatter, Line
from support.node_beacons import ALERT, PIPELINE, node_beacon, worker_beacon


def test_each_change_is_one_line_and_reported_once() -> None:
    formatter = EventFormatter("mac")

    def lines(beacon: Beacon) -> list[str]:
        return [line.text for line in formatter.on_beacon(beacon, 0.0)]

    forming = replace(PIPELINE, state="forming")
    planner = node_beacon("planner", PlannerFacts((forming,)))
    assert lines(planner) == ["epoch 7 of tiny: layers [0, 16) on w0, [16, 30) on w1"]
    assert lines(planner) == []
    assert lines(worker_beacon("w0", 0, 16, loaded=40)) == ["loading layers [0, 16)"]
    assert {who: s.loaded_bytes for who, s in formatter.loading.items()} == {"w0": 40}
    assert lines(worker_beacon("w0", 0, 16, loaded=80)) == []
    assert lines(worker_beacon("w0", 0, 16)) == ["holds layers [0, 16), 100 B of weights"]
    assert formatter.loading == {}
    assert lines(node_beacon("planner", PlannerFacts((PIPELINE,)))) == ["epoch 7 of tiny is active"]
    assert lines(worker_beacon("w0", 0, 16, loaded=40, boot="again")) == ["loading layers [0, 16)"]


def test_an_alert_and_its_end_are_lines() -> None:
    formatter = EventFormatter("mac")
    raised = node_beacon("health_watcher", HealthWatcherFacts((ALERT,)))
    calm = node_beacon("health_watcher", HealthWatcherFacts())
    assert list(formatter.on_beacon(raised, 0.0)) == [
        Line("health_watcher", "ALERT critical: mac.w1 fell silent", "bad")
    ]
    assert list(formatter.on_beacon(raised, 0.0)) == []
    assert [line.text for line in formatter.on_beacon(calm, 0.0)] == [
        "resolved: mac.w1 fell silent"
    ]


def test_a_failed_epoch_is_reported_once() -> None:
    formatter = EventFormatter("mac")
    facts = StageWorkerFacts("cpu", 1, 1, broken_epoch=4, broken_reason="lost w1")
    beacon = node_beacon("w0", facts)
    assert [line.text for line in formatter.on_beacon(beacon, 0.0)] == ["epoch 4 failed: lost w1"]
    assert list(formatter.on_beacon(beacon, 0.0)) == []


def test_a_pipeline_that_stays_impossible_is_reported() -> None:
    formatter = EventFormatter("mac")
    pipeline = replace(PIPELINE, state="impossible", stages=(), reason="no worker has room")
    beacon = node_beacon("planner", PlannerFacts((pipeline,)))
    assert list(formatter.on_beacon(beacon, 10.0)) == []
    assert list(formatter.on_beacon(beacon, 10.0 + IMPOSSIBLE_AFTER_S / 2)) == []
    (line,) = formatter.on_beacon(beacon, 10.0 + IMPOSSIBLE_AFTER_S)
    assert line.text == "no pipeline for tiny: no worker has room"
    assert list(formatter.on_beacon(beacon, 60.0)) == []


def test_smaller_caches_are_not_reported() -> None:
    formatter = EventFormatter("mac")
    planner = node_beacon("planner", PlannerFacts((PIPELINE,)))
    assert list(formatter.on_beacon(planner, 0.0))
    smaller = node_beacon("planner", PlannerFacts((replace(PIPELINE, cache_tokens=9),)))
    assert not list(formatter.on_beacon(smaller, 1.0))
