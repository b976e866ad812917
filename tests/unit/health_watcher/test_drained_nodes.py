"""A drained node may be silent, be started again and be missed by a pipeline without an alert."""

from __future__ import annotations

from pomona.messages.control import NodeDrain, Pipeline
from pomona_health_watcher.drained_nodes import RETURN_S
from support.watched_cluster import WatchedCluster


def say(cluster: WatchedCluster, *drains: NodeDrain, pipelines: tuple[Pipeline, ...] = ()) -> None:
    cluster.add("planner", facts={"drains": drains, "pipelines": pipelines})


def test_a_drained_node_that_is_away_is_not_reported_until_its_drain_is_over() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    say(cluster, NodeDrain("other", "drained", until_back=True, at=1))
    cluster.run(2)
    killed = cluster.kill("other.discovery", "other.stage_worker")
    assert cluster.run(120) == set()
    for beacon in killed.values():
        cluster.add(beacon.facts.service, "other", boot="boot2")
    say(cluster, NodeDrain("other", "ended", at=2))
    assert cluster.run(RETURN_S + 30) == set()
    cluster.kill("other.discovery", "other.stage_worker")
    assert cluster.run(30) == {"node_lost/other"}


def test_a_drain_that_is_ended_while_the_node_is_away_leaves_it_lost() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    say(cluster, NodeDrain("other", "draining", at=1))
    cluster.run(2)
    cluster.kill("other.discovery", "other.stage_worker")
    assert cluster.run(30) == set()
    say(cluster, NodeDrain("other", "ended", at=2))
    assert cluster.run(RETURN_S + 5) == {"node_lost/other"}


def test_other_nodes_are_reported_during_a_drain() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    say(cluster, NodeDrain("other", "drained", at=1))
    cluster.run(2)
    cluster.kill("mac.gateway")
    assert cluster.run(30) == {"service_lost/mac.gateway"}


def test_a_pipeline_that_a_forced_drain_ends_is_no_alert() -> None:
    cluster = WatchedCluster()
    cluster.run(5)
    impossible = Pipeline("m", "/m", 3, 4, "impossible", reason="without other: too little")
    say(cluster, NodeDrain("other", "draining", at=1, reason="m: too little"),
        pipelines=(impossible,))  # fmt: skip
    assert cluster.run(60) == set()
    say(cluster, NodeDrain("other", "ended", at=2), pipelines=(impossible,))
    assert "pipeline/m" in cluster.run(60)
