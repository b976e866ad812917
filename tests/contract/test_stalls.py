"""A process that makes no progress ends itself, or is ended by its supervisor."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pomona.exit_status import EXIT_STALLED
from pomona.messages.sampling import Sampling
from pomona.stalls import read_stalls
from pomona_ops.bench.driver import Driver
from support.beacon_thread import BeaconThread
from support.processes import Node, ServiceProcess
from support.waiting import wait_until

TESTS = Path(__file__).parents[1]
NAME = "mac.stage_worker"
HANG_S = 40.0


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node("mac", tmp_path)


@pytest.fixture
def beacons(node: Node) -> Iterator[BeaconThread]:
    with BeaconThread(node) as listening:
        yield listening


@pytest.fixture
def worker(node: Node) -> Iterator[ServiceProcess]:
    with ExitStack() as stack:
        stack.enter_context(node.discovery())
        environment = node.environment | {"POMONA_PLANNER_STAGES": "1"}
        stack.enter_context(ServiceProcess("planner", node.folder / "planner.log", environment))
        yield stack.enter_context(
            ServiceProcess(
                "stage_worker",
                node.folder / "worker.log",
                node.environment | {"PYTHONPATH": str(TESTS)},
                "support.doubles.hanging_worker",
            )
        )


def test_a_worker_whose_step_hangs_logs_its_stacks_and_ends_with_its_own_code(
    node: Node, worker: ServiceProcess, beacons: BeaconThread
) -> None:
    pipeline = beacons.wait_active()
    (node.folder / "hang").touch()
    began = time.monotonic()
    with Driver(pipeline, node.cluster) as driver:
        driver.submit([1000], Sampling(max_tokens=8, temperature=0.0))
        wait_until(lambda: not worker.is_running(), "the worker ended itself", HANG_S)
    assert worker.wait() == EXIT_STALLED
    assert time.monotonic() - began >= 5.0
    entries = [json.loads(line) for line in worker.logged().splitlines()]
    (end,) = [entry for entry in entries if entry["level"] == "critical"]
    assert "made no progress" in end["event"]
    (steps,) = [stack for name, stack in end["stacks"].items() if name.startswith("steps ")]
    assert "time.sleep(3600)" in steps[-1]
    assert len(read_stalls(node.folder, NAME)) == 1

    worker.start()
    again = beacons.wait_active(above=pipeline.epoch)
    with Driver(again, node.cluster) as driver:
        reply = driver.submit([1000], Sampling(max_tokens=8, temperature=0.0))
        driver.collect([reply])


def test_discovery_ends_a_silent_service_and_no_other(node: Node, beacons: BeaconThread) -> None:
    with (
        node.discovery(POMONA_DISCOVERY_END_SILENT="true") as discovery,
        node.health_watcher() as silent,
        ServiceProcess("planner", node.folder / "planner.log", node.environment) as planner,
    ):
        wait_until(
            lambda: beacons.newest.keys() >= {"mac.health_watcher", "mac.planner"},
            "both send beacons",
            HANG_S,
        )
        os.kill(silent.pid, signal.SIGSTOP)
        wait_until(lambda: not silent.is_running(), "the silent service was ended", HANG_S)
        assert silent.wait() == -signal.SIGKILL  # a stopped process reads no SIGTERM
        assert planner.is_running()
        assert discovery.is_running()
        assert len(read_stalls(node.folder, "mac.health_watcher")) == 1
        assert f"mac.health_watcher (process {silent.pid}) sends no beacons" in discovery.logged()


def test_a_suspended_worker_is_ended_long_before_a_suspended_service(
    node: Node, beacons: BeaconThread
) -> None:
    with (
        node.discovery(POMONA_DISCOVERY_END_SILENT="true"),
        node.health_watcher() as other,
        ServiceProcess(
            "stage_worker",
            node.folder / "worker.log",
            node.environment | {"POMONA_STAGE_WORKER_HOLD_MS": "1"},
            "pomona_stage_worker.testing.emulated",
        ) as worker,
    ):
        wait_until(lambda: beacons.newest.keys() >= {"mac.health_watcher", NAME}, "beacons", HANG_S)
        os.kill(other.pid, signal.SIGSTOP)
        os.kill(worker.pid, signal.SIGSTOP)
        wait_until(lambda: not worker.is_running(), "the end of the worker", HANG_S)
        assert other.is_running()
        assert len(read_stalls(node.folder, NAME)) == 1
