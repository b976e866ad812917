"""``pomona status``: from beacons to a report; and the lines of ``pomona up``."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from pomona.messages.control import (
    Alert,
    Beacon,
    Facts,
    GatewayFacts,
    HealthWatcherFacts,
    Pipeline,
    PlannerFacts,
    Stage,
    StageStatus,
    StageWorkerFacts,
)
from pomona.messages.discovery import DiscoveryFacts, Hardware
from pomona_ops.cluster.report import cluster_report
from pomona_ops.commands.status import EXIT_CODES
from pomona_ops.up.event_formatter import PATIENCE_S, EventFormatter, Line
from pomona_ops.up.screen import Screen

MAC = Hardware("Apple M4 Pro", 14, 64 * 10**9, 48 * 10**9, "macOS", "26.2")
PIPELINE = Pipeline(
    "tiny",
    "tiny.gguf",
    7,
    30,
    "active",
    (Stage("mac.w0", 0, 16, "tcp://h:2"), Stage("mac.w1", 16, 30, "tcp://h:3")),
)
ALERT = Alert("lost:mac.w1", "critical", "mac.w1 fell silent", 100.0)


def _beacon(name: str, facts: Facts, boot: str = "b") -> Beacon:
    return Beacon("c", f"mac.{name}", "mac", boot, 1, "1", 42, "ready", 0, 0, {}, facts)


def _worker(
    name: str, start: int, stop: int, epoch: int = 7, loaded: int = 100, boot: str = "b"
) -> Beacon:
    state = "ready" if loaded == 100 else "loading"
    status = StageStatus("tiny", epoch, start, stop, state, loaded, 100)
    speed = 9.5 if stop == 30 else 0.0
    facts = StageWorkerFacts("metal", 10, 500, (status,), tokens_per_second=speed)
    return _beacon(name, facts, boot)


def _cluster() -> dict[str, Beacon]:
    return {
        "discovery": _beacon("discovery", DiscoveryFacts(MAC)),
        "planner": _beacon("planner", PlannerFacts((PIPELINE,))),
        "gateway": _beacon("gateway", GatewayFacts("http://h:1", 3, {"tiny": 7})),
        "health_watcher": _beacon("health_watcher", HealthWatcherFacts()),
        "w0": _worker("w0", 0, 16),
        "w1": _worker("w1", 16, 30),
    }


def test_a_whole_cluster_is_serving() -> None:
    report = cluster_report("c", _cluster().values())
    assert (report.state, report.troubles) == ("serving", ())
    assert (report.users, report.tokens_per_second, report.urls) == (3, 9.5, ("http://h:1",))
    assert [node.hardware for node in report.nodes] == [MAC]
    (pipeline,) = report.pipelines
    assert pipeline.proven
    assert [(s.worker, s.start, s.stop, s.state, s.loaded_bytes) for s in pipeline.stages] == [
        ("mac.w0", 0, 16, "ready", 100),
        ("mac.w1", 16, 30, "ready", 100),
    ]


def test_the_json_form_has_what_machines_ask_for() -> None:
    report = orjson.loads(orjson.dumps(cluster_report("c", _cluster().values())))
    wanted = {"cluster", "state", "pipelines", "services", "alerts", "users", "tokens_per_second"}
    assert wanted <= set(report)
    (pipeline,) = report["pipelines"]
    assert {"model", "epoch", "state", "layer_count", "stages"} <= set(pipeline)
    stage = pipeline["stages"][0]
    assert {
        "worker", "node", "pid", "start", "stop", "state", "loaded_bytes", "resident_bytes",
    } <= set(stage)  # fmt: skip


def test_silence_is_no_cluster() -> None:
    report = cluster_report("c", [])
    assert report.state == "absent"
    assert [EXIT_CODES[state] for state in ("serving", "degraded", "absent")] == [0, 1, 2]


def test_every_missing_service_degrades() -> None:
    for missing in _cluster():
        beacons = {name: beacon for name, beacon in _cluster().items() if name != missing}
        report = cluster_report("c", beacons.values())
        assert report.state == "degraded", missing
        assert report.troubles


def test_a_stage_of_an_older_epoch_is_waiting() -> None:
    cluster = _cluster() | {"w1": _worker("w1", 16, 30, epoch=6)}
    report = cluster_report("c", cluster.values())
    assert report.state == "degraded"
    assert report.pipelines[0].stages[1].state == "waiting"


def test_an_epoch_without_a_token_is_not_proven() -> None:
    unproven = _beacon("gateway", GatewayFacts("http://h:1", 0, {"tiny": 6}))
    report = cluster_report("c", (_cluster() | {"gateway": unproven}).values())
    assert report.state == "degraded"
    assert not report.pipelines[0].proven


def test_an_impossible_plan_says_why() -> None:
    pipeline = replace(PIPELINE, state="impossible", stages=(), reason="no worker has room")
    planner = _beacon("planner", PlannerFacts((pipeline,)))
    report = cluster_report("c", (_cluster() | {"planner": planner}).values())
    assert any("no worker has room" in trouble for trouble in report.troubles)


def test_a_critical_alert_degrades_and_a_warning_does_not() -> None:
    for severity, state in (("critical", "degraded"), ("warning", "serving")):
        alert = replace(ALERT, severity=severity)
        watcher = _beacon("health_watcher", HealthWatcherFacts((alert,)))
        report = cluster_report("c", (_cluster() | {"health_watcher": watcher}).values())
        assert (report.state, report.alerts) == (state, (alert,))


def test_the_narrator_says_what_is_new_and_says_it_once() -> None:
    narrator = EventFormatter("mac")

    def said(beacon: Beacon) -> list[str]:
        return [line.text for line in narrator.heard(beacon, 0.0)]

    forming = replace(PIPELINE, state="forming")
    planner = _beacon("planner", PlannerFacts((forming,)))
    assert said(planner) == ["epoch 7 of tiny: layers [0, 16) on w0, [16, 30) on w1"]
    assert said(planner) == []
    assert said(_worker("w0", 0, 16, loaded=40)) == ["loading layers [0, 16)"]
    assert {who: s.loaded_bytes for who, s in narrator.loading.items()} == {"w0": 40}
    assert said(_worker("w0", 0, 16, loaded=80)) == []
    assert said(_worker("w0", 0, 16)) == ["holds layers [0, 16), 100 B of weights"]
    assert narrator.loading == {}
    assert said(_beacon("planner", PlannerFacts((PIPELINE,)))) == ["epoch 7 of tiny is active"]
    assert said(_worker("w0", 0, 16, loaded=40, boot="again")) == ["loading layers [0, 16)"]


def test_the_narrator_tells_an_alert_and_its_end() -> None:
    narrator = EventFormatter("mac")
    raised = _beacon("health_watcher", HealthWatcherFacts((ALERT,)))
    calm = _beacon("health_watcher", HealthWatcherFacts())
    assert list(narrator.heard(raised, 0.0)) == [
        Line("health_watcher", "ALERT critical: mac.w1 fell silent", "bad")
    ]
    assert list(narrator.heard(raised, 0.0)) == []
    assert [line.text for line in narrator.heard(calm, 0.0)] == ["resolved: mac.w1 fell silent"]


def test_the_narrator_tells_a_broken_epoch_once() -> None:
    narrator = EventFormatter("mac")
    facts = StageWorkerFacts("cpu", 1, 1, broken_epoch=4, broken_reason="lost w1")
    beacon = _beacon("w0", facts)
    assert [line.text for line in narrator.heard(beacon, 0.0)] == ["epoch 4 broke: lost w1"]
    assert list(narrator.heard(beacon, 0.0)) == []


def test_the_narrator_tells_a_missing_pipeline_when_it_stays_missing() -> None:
    narrator = EventFormatter("mac")
    pipeline = replace(PIPELINE, state="impossible", stages=(), reason="no worker has room")
    beacon = _beacon("planner", PlannerFacts((pipeline,)))
    assert list(narrator.heard(beacon, 10.0)) == []
    assert list(narrator.heard(beacon, 10.0 + PATIENCE_S / 2)) == []
    (line,) = narrator.heard(beacon, 10.0 + PATIENCE_S)
    assert line.text == "no pipeline for tiny: no worker has room"
    assert list(narrator.heard(beacon, 60.0)) == []


def test_a_stage_says_what_it_fetches_before_it_loads(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(lambda: None)
    status = StageStatus("tiny", 7, 0, 16, "loading", fetched_bytes=50, fetch_bytes=100)
    screen.loading({"w0": status})
    screen.loading({"w0": replace(status, fetch_bytes=0, loaded_bytes=80, total_bytes=100)})
    told = capsys.readouterr().out
    assert "fetched 50 B of 100 B" in told
    assert "loaded 80 B of 100 B" in told


def test_caches_that_become_smaller_are_no_news() -> None:
    narrator = EventFormatter("mac")
    planner = _cluster()["planner"]
    assert list(narrator.heard(planner, 0.0))
    smaller = _beacon("planner", PlannerFacts((replace(PIPELINE, cache_tokens=9),)))
    assert not list(narrator.heard(smaller, 1.0))
