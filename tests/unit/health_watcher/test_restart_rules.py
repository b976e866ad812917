"""Services that died and were started again: one warning when they serve, one alert for a loop."""

from __future__ import annotations

import pytest

from pomona.leases import LEASE_S
from pomona.messages.control import Pipeline, Stage, StageStatus
from pomona_health_watcher.alert_deduplication import AlertDeduplication
from pomona_health_watcher.loss_rules import KnownService
from pomona_health_watcher.restart_rules import CALM_S, SERVING_DEADLINE_S, WINDOW_S
from support.watched_cluster import STEP_S, WatchedCluster

UNIX = 1_700_000_000.0


def pipeline(epoch: int, state: str = "active") -> Pipeline:
    stages = (Stage("mac.stage_worker", 0, 4, "tcp://h:1"),)
    return Pipeline("smol", "smol.gguf", epoch, 4, state, stages)  # type: ignore[arg-type]  # a literal


def planned(cluster: WatchedCluster, epoch: int, state: str = "active") -> None:
    cluster.add("planner", facts={"pipelines": (pipeline(epoch, state),)})


def loaded(cluster: WatchedCluster, epoch: int, state: str = "ready", **fields: str) -> None:
    status = StageStatus("smol", epoch, 0, 4, state)  # type: ignore[arg-type]  # a literal
    cluster.add("stage_worker", facts={"stages": (status,)}, **fields)


def serving_cluster() -> WatchedCluster:
    cluster = WatchedCluster()
    planned(cluster, 1)
    loaded(cluster, 1)
    cluster.add("gateway", facts={"proven_epochs": {"smol": 1}})
    cluster.run(5)
    return cluster


@pytest.mark.parametrize("name", ["gateway", "planner", "discovery", "stage_worker"])
@pytest.mark.parametrize("away_s", [0.0, 2.0])
def test_a_service_that_is_back_within_its_lease_is_one_warning_with_its_cause(
    name: str, away_s: float
) -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.kill(f"mac.{name}")
    assert cluster.run(away_s) == set()
    cluster.add(name, boot="boot2", former_end="was killed by SIGKILL")  # type: ignore[arg-type]  # a literal
    cluster.run(1)
    [condition] = cluster.conditions()
    assert (condition.key, condition.severity) == (f"service_lost/mac.{name}", "warning")
    assert f"mac.{name} on node mac died (killed by SIGKILL) and serves" in condition.summary
    cluster.run(CALM_S + 1)
    assert cluster.keys() == set()


def test_a_worker_serves_again_only_when_a_token_has_come_through_its_epoch() -> None:
    cluster = serving_cluster()
    cluster.kill("mac.stage_worker")
    planned(cluster, 2, "forming")
    loaded(cluster, 2, "loading", boot="boot2")
    assert cluster.run(3) == set()
    planned(cluster, 2)
    loaded(cluster, 2, boot="boot2")
    assert cluster.run(3) == set(), "loaded, and no token yet"
    cluster.add("gateway", facts={"proven_epochs": {"smol": 2}})
    cluster.run(1)
    [condition] = cluster.conditions()
    assert "serves again after 7 s. No answer was running." in condition.summary


def test_answers_that_paused_are_counted_with_the_longest_pause() -> None:
    cluster = serving_cluster()
    cluster.add("gateway", facts={"proven_epochs": {"smol": 1}, "resumed": 3, "paused": 0})
    cluster.run(2)
    cluster.kill("mac.stage_worker")
    cluster.add("gateway", facts={"resumed": 3, "paused": 4})
    planned(cluster, 2)
    loaded(cluster, 2, boot="boot2")
    cluster.run(2)
    facts = {"proven_epochs": {"smol": 2}, "resumed": 5, "paused": 2, "longest_pause_s": 3.0}
    cluster.add("gateway", facts=facts)
    assert cluster.run(1) == set(), "two still wait"
    cluster.add("gateway", facts={**facts, "resumed": 7, "paused": 0, "longest_pause_s": 5.2})
    cluster.run(1)
    [condition] = cluster.conditions()
    assert condition.summary.endswith("4 answers paused 5 s and went on.")


def test_a_gateway_tells_how_many_answers_ran_through_it() -> None:
    cluster = serving_cluster()
    cluster.add("gateway", facts={"running": 3, "proven_epochs": {"smol": 1}})
    cluster.run(2)
    cluster.add("gateway", boot="boot2", facts={"proven_epochs": {"smol": 1}})
    cluster.run(1)
    [condition] = cluster.conditions()
    assert condition.summary.endswith("3 answers ran through it.")


def test_a_service_that_does_not_serve_again_is_critical_until_it_does() -> None:
    cluster = serving_cluster()
    loaded(cluster, 2, "loading", boot="boot2")
    assert cluster.run(SERVING_DEADLINE_S - 2) == set()
    cluster.run(3)
    [condition] = cluster.conditions()
    assert condition.severity == "critical"
    assert "does not serve yet" in condition.summary
    planned(cluster, 2)
    loaded(cluster, 2, boot="boot2")
    cluster.add("gateway", facts={"proven_epochs": {"smol": 2}})
    cluster.run(2)
    assert cluster.keys() == set()


def test_a_lost_service_is_resolved_when_it_serves_not_when_its_process_is_up() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    cluster.kill("mac.gateway")
    cluster.run(LEASE_S + 3)
    cluster.add("gateway", boot="boot2", state="starting")
    assert cluster.run(4) == {"service_lost/mac.gateway"}
    cluster.add("gateway", boot="boot2")
    cluster.run(2)
    assert cluster.keys() == set()


def test_a_crash_loop_is_one_alert_that_grows_with_the_right_times() -> None:
    cluster, alerts = serving_cluster(), AlertDeduplication(30.0)
    told: list[tuple[str, str, float]] = []

    def run(seconds: float) -> None:
        end = cluster.now + seconds
        while cluster.now < end:
            cluster.run(STEP_S)
            for x in alerts.update(cluster.conditions(), cluster.now, UNIX + cluster.now):
                told.append((x.kind, x.alert.summary, x.at - x.alert.since))

    began = cluster.now
    for number in range(4):
        cluster.kill("mac.gateway")
        run(2)
        cluster.add("gateway", boot=f"again{number}", facts={"proven_epochs": {"smol": 1}})
        run(58 if number else 6)
    assert [kind for kind, _, _ in told].count("resolved") == 0
    raised = [text for kind, text, _ in told if kind == "raised"]
    assert "died and serves again after 2 s" in raised[0].replace("3 s", "2 s")
    assert "died 4 times in 3 minutes" in raised[-1]
    assert len(raised) <= 4
    run(WINDOW_S + 5)
    resolved = [since_s for kind, _, since_s in told if kind == "resolved"]
    assert len(resolved) == 1
    assert resolved[0] < cluster.now - began - WINDOW_S, "the calm afterwards is not counted"


def test_a_service_that_never_comes_up_in_a_loop_is_one_critical_alert() -> None:
    cluster = serving_cluster()
    seen: set[str] = set()
    for number in range(12):
        cluster.add("gateway", boot=f"again{number}", state="starting")
        seen |= cluster.run(2)
    assert seen == {"service_lost/mac.gateway"}
    [condition] = cluster.conditions()
    assert condition.severity == "critical"
    assert "died 12 times in 22 s" in condition.summary


def test_a_node_that_was_started_again_with_its_watcher_is_one_warning() -> None:
    known = [
        KnownService(f"mac.{x}", "mac", x, "former", "ready")  # type: ignore[arg-type]  # a literal
        for x in ("discovery", "planner", "gateway", "stage_worker")
    ]
    cluster = WatchedCluster(known)
    assert cluster.run(CALM_S + 20) == {"node_restarted/mac"}
    assert cluster.keys() == set()
    once = WatchedCluster(known[1:2])
    assert once.run(30) == {"service_lost/mac.planner"}
