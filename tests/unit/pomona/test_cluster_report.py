"""``pomona status``: from beacons to a report."""

from __future__ import annotations

import io
from dataclasses import replace
from io import StringIO

import orjson
import pytest
from rich.console import Console

from pomona.cluster_report import cluster_report
from pomona.messages.control import (
    Beacon,
    GatewayFacts,
    HealthWatcherFacts,
    PlannerFacts,
    RequestProgress,
    SpeculationStatus,
    StageStatus,
    StageWorkerFacts,
    WantedModel,
)
from pomona.messages.discovery import DiscoveryFacts, Hardware
from pomona_ops.commands.status import EXIT_CODES
from pomona_ops.commands.status_tables import rendered
from support.node_beacons import ALERT, PIPELINE, node_beacon, worker_beacon

MAC = Hardware("Apple M4 Pro", 14, 64 * 10**9, 48 * 10**9, "macOS", "26.2")


def _cluster() -> dict[str, Beacon]:
    return {
        "discovery": node_beacon("discovery", DiscoveryFacts(MAC)),
        "planner": node_beacon("planner", PlannerFacts((PIPELINE,))),
        "gateway": node_beacon("gateway", GatewayFacts("http://h:1", 3, {"tiny": 7})),
        "health_watcher": node_beacon("health_watcher", HealthWatcherFacts()),
        "w0": worker_beacon("w0", 0, 16),
        "w1": worker_beacon("w1", 16, 30),
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


def test_the_json_form_has_its_documented_keys() -> None:
    report = orjson.loads(orjson.dumps(cluster_report("c", _cluster().values())))
    keys = {"cluster", "state", "pipelines", "services", "alerts", "users", "tokens_per_second"}
    assert keys <= set(report)
    (pipeline,) = report["pipelines"]
    assert {"model", "epoch", "state", "layer_count", "stages"} <= set(pipeline)
    stage = pipeline["stages"][0]
    assert {
        "worker", "node", "pid", "start", "stop", "state", "loaded_bytes", "resident_bytes",
    } <= set(stage)  # fmt: skip


def test_the_heads_guesses_are_reported_and_printed() -> None:
    beacons = _cluster()
    counts = SpeculationStatus("", 100, 75, 2.5, {"suffix": 75}, {"draft model": "none is set"})
    head = beacons["w0"]
    assert isinstance(head.facts, StageWorkerFacts)
    stages = tuple(replace(stage, speculation=counts) for stage in head.facts.stages)
    beacons["w0"] = replace(head, facts=replace(head.facts, stages=stages))
    report = cluster_report("c", beacons.values())
    assert report.pipelines[0].speculation == counts
    console = Console(width=200, file=StringIO())
    console.print(rendered(report))
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "guesses: 75% right (75 from suffix), 2.50 tokens a round" in text
    assert "no draft model: none is set" in text


def test_without_beacons_there_is_no_cluster() -> None:
    report = cluster_report("c", [])
    assert report.state == "absent"
    assert [EXIT_CODES[state] for state in ("serving", "degraded", "absent")] == [0, 1, 2]


def test_any_missing_service_is_degraded() -> None:
    for missing in _cluster():
        beacons = {name: beacon for name, beacon in _cluster().items() if name != missing}
        report = cluster_report("c", beacons.values())
        assert report.state == "degraded", missing
        assert report.troubles


def test_a_stage_of_an_older_epoch_is_waiting() -> None:
    cluster = _cluster() | {"w1": worker_beacon("w1", 16, 30, epoch=6)}
    report = cluster_report("c", cluster.values())
    assert report.state == "degraded"
    assert report.pipelines[0].stages[1].state == "waiting"


def test_an_epoch_without_a_token_is_not_proven() -> None:
    unproven = node_beacon("gateway", GatewayFacts("http://h:1", 0, {"tiny": 6}))
    report = cluster_report("c", (_cluster() | {"gateway": unproven}).values())
    assert report.state == "degraded"
    assert not report.pipelines[0].proven


def test_an_impossible_plan_has_a_reason() -> None:
    pipeline = replace(PIPELINE, state="impossible", stages=(), reason="no worker has room")
    planner = node_beacon("planner", PlannerFacts((pipeline,)))
    report = cluster_report("c", (_cluster() | {"planner": planner}).values())
    assert any("no worker has room" in trouble for trouble in report.troubles)


def test_a_critical_alert_is_degraded_and_a_warning_is_not() -> None:
    for severity, state in (("critical", "degraded"), ("warning", "serving")):
        alert = replace(ALERT, severity=severity)
        watcher = node_beacon("health_watcher", HealthWatcherFacts((alert,)))
        report = cluster_report("c", (_cluster() | {"health_watcher": watcher}).values())
        assert (report.state, report.alerts) == (state, (alert,))


def test_a_stage_tells_its_footprint_and_mlxs_memory() -> None:
    status = StageStatus("tiny", 7, 0, 16, "ready", 100, 100)
    facts = StageWorkerFacts(
        "metal", 10, 500, (status,), footprint_bytes=90, active_bytes=70, cached_bytes=5
    )
    beacons = (_cluster() | {"w0": node_beacon("w0", facts)}).values()
    stage, older = cluster_report("c", beacons).pipelines[0].stages
    assert (stage.footprint_bytes, stage.active_bytes, stage.cached_bytes) == (90, 70, 5)
    assert older.footprint_bytes == 500, "a worker of an older version tells its resident memory"


def test_running_requests_are_reported_oldest_first_with_age_and_prompt_progress() -> None:
    beacons = _cluster()
    young = RequestProgress("b", "tiny", 2.0, 40, 40, 7)
    old = RequestProgress("a", "tiny", 61.0, 9000, 4096, 0)
    for name, progress in (("gateway", young), ("gateway2", old)):
        facts = GatewayFacts("http://h:1", 1, {"tiny": 7}, oldest=(progress,))
        beacons[name] = node_beacon(name, facts)
    report = cluster_report("c", beacons.values())
    assert report.requests == (old, young)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(rendered(report))
    text = " ".join(console.export_text().split())
    assert "a tiny 61 s 4096 of 9000 0 tokens b tiny 2 s 40 of 40 7 tokens" in text


@pytest.mark.parametrize(
    ("models", "loads_on_request", "expected"),
    [
        (
            (WantedModel("tiny", "/m", False),),
            True,
            "no model is loaded: the next request loads it",
        ),
        ((WantedModel("tiny", "/m", False),), False, "run `pomona models load NAME`"),
        ((), True, "no model is known: run `pomona models load MODEL`"),
    ],
)
def test_without_a_loaded_model_status_says_what_loads_one(
    models: tuple[WantedModel, ...], loads_on_request: bool, expected: str
) -> None:
    beacons = _cluster()
    beacons["planner"] = node_beacon("planner", PlannerFacts((), models))
    gateway = GatewayFacts("http://h:1", loads_on_request=loads_on_request)
    beacons["gateway"] = replace(node_beacon("gateway", gateway), state="starting")
    report = cluster_report("c", beacons.values())
    (trouble,) = report.troubles
    assert expected in trouble
    assert report.unloaded == tuple(model.name for model in models)


def test_a_lost_stage_says_that_its_answers_wait() -> None:
    beacons = {name: beacon for name, beacon in _cluster().items() if name != "w1"}
    report = cluster_report("c", beacons.values())
    assert any("answers wait until it is replaced" in trouble for trouble in report.troubles)
