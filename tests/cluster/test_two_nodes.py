"""Two nodes, started by hand as in the README, where the second knows the first one's address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from pomona_ops.cluster.blas import stage_worker_environment
from support.clusters import ANSWER, MODEL, READY_S, STOP_S, Cluster, run_pomona
from support.members import join
from support.ports import free_ports
from support.waiting import wait_until

FIRST_SERVICES = ("discovery", "stage_worker", "planner", "gateway", "health_watcher")
SECOND_SERVICES = ("discovery", "stage_worker")


class Node:
    """Runs the services of one node as processes."""

    def __init__(
        self, folder: Path, name: str, services: tuple[str, ...], **variables: str
    ) -> None:
        self.ports = free_ports()
        self.state = folder / name
        join(folder, "pomona", name, self.state)
        environment = {
            "POMONA_NODE": name,
            "POMONA_STATE_DIR": str(self.state),
            "POMONA_DATA_HOST": "127.0.0.1",
            "POMONA_CONTROL_PUBLISH": f"tcp://127.0.0.1:{self.ports.control_publish}",
            "POMONA_CONTROL_SUBSCRIBE": f"tcp://127.0.0.1:{self.ports.control_subscribe}",
            "POMONA_DISCOVERY_PEER_HOST": "127.0.0.1",
            "POMONA_DISCOVERY_PEER_PORT": str(self.ports.peer),
            "POMONA_GATEWAY_PORT": str(self.ports.gateway),
            **stage_worker_environment(2),
            **variables,
        }
        self.output = folder / f"{name}.txt"
        with self.output.open("wb") as file:
            self.processes = [
                subprocess.Popen(
                    [sys.executable, "-I", "-m", f"pomona_{service}"],
                    env=os.environ | environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
                for service in services
            ]

    def stop(self) -> list[int]:
        """Ends all services with SIGTERM. Returns their exit codes."""
        for process in self.processes:
            process.terminate()
        try:
            return [process.wait(STOP_S) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait(STOP_S)


@pytest.fixture
def nodes(tmp_path: Path) -> Generator[tuple[Node, Node]]:
    head = Node(
        tmp_path, "head", FIRST_SERVICES,
        POMONA_PLANNER_STAGES="2", POMONA_PLANNER_MODELS=f'["{MODEL}"]',
    )  # fmt: skip
    try:
        second = Node(
            tmp_path,
            "second",
            SECOND_SERVICES,
            POMONA_DISCOVERY_PEERS=f"127.0.0.1:{head.ports.peer}",
        )
        try:
            yield head, second
        finally:
            second.stop()
    finally:
        head.stop()


def test_two_nodes_serve_a_model_together(nodes: tuple[Node, Node]) -> None:
    head, second = nodes
    cluster = Cluster(head.processes[0], head.ports, head.output, stages=2)
    wait_until(cluster.is_ready, f"ready; output of the head: {head.output.read_text()}", READY_S)
    assert cluster.chat() == ANSWER
    for node in (head, second):
        status = run_pomona(
            "status", "--json", "--port", str(node.ports.first), POMONA_STATE_DIR=str(node.state)
        )
        assert status.returncode == 0, status.stdout
        report = json.loads(status.stdout)
        assert {node["name"] for node in report["nodes"]} == {"head", "second"}
        stages = report["pipelines"][0]["stages"]
        assert {stage["node"] for stage in stages} == {"head", "second"}
    assert second.stop() == [0, 0]
    assert head.stop() == [0] * len(FIRST_SERVICES)
