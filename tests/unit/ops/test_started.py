"""Commands find the cluster that ``pomona up`` started last."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import orjson
import psutil
import pytest

from pomona.settings import DEFAULT_PORT
from pomona_ops.cluster.ports import ClusterPorts
from pomona_ops.cluster.processes import ClusterOptions
from pomona_ops.cluster.started import (
    StartedCluster,
    find_port,
    find_state_dir,
    find_target,
    record_start,
    started_clusters,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("POMONA_CONTROL_SUBSCRIBE", "POMONA_CLUSTER", "POMONA_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def start(port: int, folder: Path, cluster: str = "home") -> None:
    record_start(ClusterOptions("m", 2, ClusterPorts(port), folder, "mac", cluster))


def write_ended(home: Path, port: int, started_at: float) -> None:
    """Records a cluster whose process has ended: the pid is of another process now."""
    path = home / ".pomona" / "clusters" / f"{port}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(StartedCluster(port, "old", "/nowhere", os.getpid(), started_at)))


def test_without_a_record_the_port_is_the_default() -> None:
    assert find_port(None) == DEFAULT_PORT
    assert find_port(6000) == 6000


def test_the_last_started_cluster_is_found_with_its_name_and_folder(tmp_path: Path) -> None:
    start(6000, tmp_path / "state")
    target = find_target(None)
    assert (target.port, target.cluster) == (6000, "home")
    assert target.endpoint == f"tcp://127.0.0.1:{ClusterPorts(6000).control_subscribe}"
    assert target.state_dir == tmp_path / "state"


def test_a_running_cluster_comes_before_one_that_ended_later(home: Path) -> None:
    start(6000, home)
    write_ended(home, 7000, psutil.Process().create_time() + 1000)
    assert [x.port for x in started_clusters()] == [6000, 7000]
    assert find_port(None) == 6000


def test_of_ended_clusters_the_newest_is_found_for_its_logs(home: Path) -> None:
    write_ended(home, 6000, 50.0)
    write_ended(home, 7000, 100.0)
    assert find_port(None) == 7000


def test_settings_come_before_the_record_and_the_port_before_settings(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(6000, home / "state")
    monkeypatch.setenv("POMONA_CONTROL_SUBSCRIBE", "tcp://10.0.0.1:9")
    monkeypatch.setenv("POMONA_CLUSTER", "mine")
    monkeypatch.setenv("POMONA_STATE_DIR", str(home / "set"))
    target = find_target(None)
    assert (target.endpoint, target.cluster) == ("tcp://10.0.0.1:9", "mine")
    assert find_target(6000).endpoint == f"tcp://127.0.0.1:{ClusterPorts(6000).control_subscribe}"
    assert find_state_dir(6000) == home / "set"


def test_a_damaged_record_is_ignored(home: Path) -> None:
    start(6000, home)
    (home / ".pomona" / "clusters" / "1.json").write_bytes(b"{")
    assert [x.port for x in started_clusters()] == [6000]


def test_the_next_cluster_on_a_port_replaces_the_record(home: Path) -> None:
    start(6000, home / "a")
    start(6000, home / "b")
    assert [dataclasses.astuple(x)[:3] for x in started_clusters()] == [
        (6000, "home", str(home / "b"))
    ]
