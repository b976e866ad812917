"""The lines that ``pomona up`` prints for beacons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pomona.messages.control import (
    Beacon,
    HealthWatcherFacts,
    PlannerFacts,
    StageWorkerFacts,
    WantedModel,
)
from pomona_ops.up.event_formatter import (
    IMPOSSIBLE_AFTER_S,
    IMPOSSIBLE_AGAIN_AFTER_S,
    EventFormatter,
    Line,
)
from pomona_ops.up.supervisor import Exited, Started
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


def test_the_end_of_a_loss_says_that_the_service_serves() -> None:
    formatter = EventFormatter("mac")
    lost = replace(ALERT, key="service_lost/mac.w1", summary="w1 died and does not serve yet")
    list(formatter.on_beacon(node_beacon("health_watcher", HealthWatcherFacts((lost,))), 0.0))
    (line,) = formatter.on_beacon(node_beacon("health_watcher", HealthWatcherFacts()), 1.0)
    assert line.text == "resolved: w1 serves again"


def test_the_reason_for_an_epoch_is_told_and_a_later_lack_of_workers_soon() -> None:
    formatter = EventFormatter("mac")
    forming = replace(PIPELINE, state="forming", reason="mac.w1 has restarted")
    (line,) = formatter.on_beacon(node_beacon("planner", PlannerFacts((forming,))), 0.0)
    assert line.text.endswith("on w1 (mac.w1 has restarted)")
    gone = replace(PIPELINE, state="impossible", stages=(), reason="no worker has room")
    beacon = node_beacon("planner", PlannerFacts((gone,)))
    assert not list(formatter.on_beacon(beacon, 1.0))
    assert len(list(formatter.on_beacon(beacon, 1.0 + IMPOSSIBLE_AGAIN_AFTER_S))) == 1


def test_a_reason_that_is_over_is_not_told_with_the_new_epoch() -> None:
    formatter = EventFormatter("mac")
    reason = "2 stage workers are needed; present: none"
    gone = replace(PIPELINE, state="impossible", stages=(), reason=reason)
    assert not list(formatter.on_beacon(node_beacon("planner", PlannerFacts((gone,))), 0.0))
    forming = replace(PIPELINE, state="forming", reason=reason)
    (line,) = formatter.on_beacon(node_beacon("planner", PlannerFacts((forming,))), 1.0)
    assert line.text.endswith("[16, 30) on w1")


def test_a_restart_is_told_once() -> None:
    formatter = EventFormatter("mac")
    warning = replace(ALERT, severity="warning", summary="w1 died and serves again")
    raised = node_beacon("health_watcher", HealthWatcherFacts((warning,)))
    assert [line.text for line in formatter.on_beacon(raised, 0.0)] == [
        "ALERT warning: w1 died and serves again"
    ]
    assert not list(formatter.on_beacon(node_beacon("health_watcher", HealthWatcherFacts()), 1.0))


def test_an_unloaded_model_is_a_line_and_loads_again_with_one() -> None:
    formatter = EventFormatter("mac")
    wanted = WantedModel("tiny", "tiny.gguf", False)
    planned = node_beacon("planner", PlannerFacts((PIPELINE,)))
    unloaded = node_beacon("planner", PlannerFacts((), (wanted,)))
    assert len(list(formatter.on_beacon(planned, 0.0))) == 1
    assert [line.text for line in formatter.on_beacon(unloaded, 1.0)] == [
        "tiny is unloaded; the next request for it loads it"
    ]
    assert not list(formatter.on_beacon(unloaded, 2.0))
    assert len(list(formatter.on_beacon(planned, 3.0))) == 1


def test_a_cluster_is_settled_when_who_died_is_ready_and_its_pipeline_active() -> None:
    formatter = EventFormatter("mac")
    list(formatter.on_beacon(node_beacon("planner", PlannerFacts((PIPELINE,))), 0.0))
    assert formatter.is_settled
    formatter.on_supervisor_event(Exited("w1", "was killed by SIGKILL", "", Path("w1.log"), 0.2))
    assert not formatter.is_settled
    formatter.on_supervisor_event(Started("w1", 42, True))
    list(formatter.on_beacon(replace(worker_beacon("w1", 16, 30), pid=41), 1.0))
    assert not formatter.is_settled, "a late beacon of the process that died"
    forming = replace(PIPELINE, epoch=8, state="forming")
    list(formatter.on_beacon(node_beacon("planner", PlannerFacts((forming,))), 2.0))
    list(formatter.on_beacon(worker_beacon("w1", 16, 30), 2.0))
    assert not formatter.is_settled
    active = replace(PIPELINE, epoch=8)
    list(formatter.on_beacon(node_beacon("planner", PlannerFacts((active,))), 3.0))
    assert formatter.is_settled


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
