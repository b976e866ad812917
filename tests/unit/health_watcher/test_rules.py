"""Conditions that services report in their beacons, and memory pressure."""

from __future__ import annotations

import pytest

from pomona.leases import LEASE_S
from pomona.messages.control import Alert, FalseWeights, Pipeline, StageStatus
from pomona_discovery.local_network import denial
from pomona_health_watcher.advice import advice_of
from pomona_health_watcher.conditions import AlertThresholds
from pomona_health_watcher.loss_rules import SETTLE_S
from pomona_health_watcher.rules import START_S
from support.beacons import GIB
from support.watched_cluster import WatchedCluster


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
def test_memory_pressure_follows_its_thresholds(
    resident: float, cache: float, severity: str | None
) -> None:
    cluster = WatchedCluster()
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


def test_a_peer_that_sends_false_weights_is_an_alert_with_its_name_and_the_file() -> None:
    cluster = WatchedCluster()
    false = FalseWeights("ben.stage_worker", "ben", "m", "a.safetensors")
    cluster.add("stage_worker", facts={"false_weights": (false,)})
    cluster.run(3)
    (condition,) = cluster.conditions()
    assert (condition.key, condition.severity) == ("false_weights/ben.stage_worker", "critical")
    assert "on node ben sent other bytes of a.safetensors of m" in condition.summary
    alert = Alert(condition.key, condition.severity, condition.summary, 0.0)
    assert "pomona revoke" in advice_of(alert).action


@pytest.mark.parametrize(
    ("memory", "severity"),
    [
        ({"resident_bytes": 1, "footprint_bytes": 95}, "warning"),
        ({"resident_bytes": 200, "footprint_bytes": 50}, None),
        ({"resident_bytes": 1, "footprint_bytes": 50, "active_bytes": 99}, "critical"),
    ],
)
def test_memory_pressure_is_told_by_footprint_and_mlx_not_by_resident_memory(
    memory: dict[str, int], severity: str | None
) -> None:
    cluster = WatchedCluster()
    cluster.add("stage_worker", facts={"usable_memory_bytes": 100, **memory})
    cluster.run(3)
    assert [x.severity for x in cluster.conditions()] == ([severity] if severity else [])


def test_a_panic_is_a_condition_until_the_worker_starts_without_one() -> None:
    cluster = WatchedCluster()
    cluster.add("stage_worker", facts={"panicked_at": 1.7e9})
    cluster.run(3)
    assert [(x.key, x.severity) for x in cluster.conditions()] == [
        ("panic/mac.stage_worker", "critical")
    ]
    cluster.add("stage_worker", boot="boot2")
    cluster.run(1)
    assert cluster.keys() == {"service_lost/mac.stage_worker"}, "the restart alone"


def test_memory_around_a_threshold_does_not_flap() -> None:
    cluster = WatchedCluster()

    def use(share: float) -> set[str]:
        facts = {"usable_memory_bytes": 1000, "resident_bytes": int(1000 * share)}
        cluster.add("stage_worker", facts=facts)
        cluster.run(1)
        return cluster.keys()

    assert use(0.91)
    assert use(0.89)
    assert not use(0.84)
    assert not use(0.89)


def test_a_worker_that_does_not_know_its_memory_is_not_under_pressure() -> None:
    cluster = WatchedCluster()
    cluster.add("stage_worker", facts={"usable_memory_bytes": 0, "resident_bytes": GIB})
    assert cluster.run(5) == set()


def test_a_failed_stage_is_one_condition_with_its_reason() -> None:
    cluster = WatchedCluster()
    stage = StageStatus("smol", 3, 0, 15, "failed", error="model.gguf: tensor output missing")
    cluster.add("stage_worker", state="failed", facts={"stages": (stage,)})
    cluster.run(2)
    [condition] = cluster.conditions()
    assert condition.key == "stage_failed/mac.stage_worker/smol"
    assert "layers 0 to 14" in condition.summary
    assert "tensor output missing" in condition.summary


def test_a_failed_service_is_a_condition() -> None:
    cluster = WatchedCluster()
    cluster.add("planner", state="failed")
    cluster.run(2)
    assert cluster.keys() == {"service_failed/mac.planner"}


def test_a_pipeline_that_stays_impossible_is_a_condition() -> None:
    cluster = WatchedCluster()
    pipeline = Pipeline("big", "/big", 4, 60, "impossible", reason="40 GiB are missing")
    cluster.add("planner", facts={"pipelines": (pipeline,)})
    assert cluster.run(AlertThresholds().impossible_after_s - 2) == set()
    cluster.run(4)
    [condition] = cluster.conditions()
    assert condition.key == "pipeline/big"
    assert "40 GiB are missing" in condition.summary
    cluster.add("planner")
    cluster.run(1)
    assert cluster.keys() == set()


def test_a_condition_does_not_end_because_its_service_died() -> None:
    cluster = WatchedCluster()
    cluster.add("stage_worker", facts={"usable_memory_bytes": 100, "resident_bytes": 99})
    cluster.run(5)
    cluster.kill("mac.stage_worker")
    cluster.run(LEASE_S + SETTLE_S + 1.0)
    assert cluster.keys() == {"memory/mac.stage_worker", "service_lost/mac.stage_worker"}
    cluster.add("stage_worker", boot="boot2")
    cluster.run(1)
    assert cluster.keys() == set()


def test_a_worker_that_stalls_again_and_again_is_a_condition_that_says_how_to_take_it_back() -> (
    None
):
    cluster = WatchedCluster()
    cluster.add("stage_worker", facts={"stalled_at": (1.0, 2.0)})
    cluster.run(3)
    assert cluster.conditions() == []
    cluster.add("stage_worker", boot="boot2", facts={"stalled_at": (1.0, 2.0, 3.0)})
    cluster.run(3)
    (condition,) = (x for x in cluster.conditions() if x.key.startswith("set_aside/"))
    assert (condition.key, condition.severity) == ("set_aside/mac.stage_worker", "critical")
    assert "mac.stage_worker.stalls.json" in condition.summary


def test_a_model_that_fits_nowhere_is_no_fault_while_workers_start() -> None:
    cluster = WatchedCluster(others=False)
    pipeline = Pipeline("big", "/big", 4, 60, "impossible", reason="no stage worker")
    for service in ("discovery", "gateway"):
        cluster.add(service)
    cluster.add("planner", facts={"pipelines": (pipeline,)})
    assert cluster.run(20) == set()
    cluster.add("stage_worker", state="starting")
    assert cluster.run(20) == set()
    cluster.run(START_S)
    assert cluster.keys() == {"pipeline/big"}


def test_a_denied_local_network_is_named_with_what_to_allow() -> None:
    cluster = WatchedCluster()
    facts = {"troubles": ("unrelated", denial("other", "192.168.1.7"))}
    cluster.add("discovery", facts=facts)
    cluster.run(2)
    [condition] = cluster.conditions()
    assert (condition.key, condition.severity) == ("local_network/mac", "critical")
    assert "other at 192.168.1.7" in condition.summary
    action = advice_of(Alert(condition.key, condition.severity, condition.summary, 0.0)).action
    assert "Local Network" in action
    assert "tmux" in action
    cluster.add("discovery")
    cluster.run(1)
    assert cluster.keys() == set()
