"""Stalled stage workers."""

from __future__ import annotations

from typing import Any

import pytest

from pomona_health_watcher.conditions import AlertThresholds
from pomona_health_watcher.stall_rules import TOKEN_S
from support.watched_cluster import WatchedCluster


def test_a_stage_without_progress_while_work_is_queued_is_stalled() -> None:
    cluster = WatchedCluster()
    cluster.add("stage_worker", queued=3, progress=41)
    assert cluster.run(AlertThresholds().stall_after_s - 2) == set()
    cluster.run(4)
    assert cluster.keys() == {"stalled/mac.stage_worker"}
    cluster.add("stage_worker", queued=3, progress=42)
    cluster.run(1)
    assert cluster.keys() == set()


def test_a_chunk_of_a_prompt_may_take_longer_but_not_for_ever() -> None:
    cluster = WatchedCluster()
    cluster.add("stage_worker", queued=1, progress=41, facts={"step_tokens": 512})
    limit_s = AlertThresholds().stall_after_s + 512 * TOKEN_S
    assert cluster.run(limit_s - 2) == set()
    cluster.run(4)
    assert cluster.keys() == {"stalled/mac.stage_worker"}


@pytest.mark.parametrize("fields", [{"queued": 0}, {"queued": 3, "state": "starting"}])
def test_a_stage_without_work_or_still_loading_is_not_stalled(fields: dict[str, Any]) -> None:
    cluster = WatchedCluster()
    cluster.add("stage_worker", progress=41, **fields)
    assert cluster.run(120) == set()


def test_no_stall_is_reported_while_the_watcher_is_disconnected() -> None:
    cluster = WatchedCluster()
    cluster.add("stage_worker", queued=3, progress=41)
    cluster.run(5)
    cluster.kill("mac.discovery")
    assert cluster.run(60) == {"service_lost/mac.discovery"}
