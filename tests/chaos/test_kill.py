"""Tests that a service killed with SIGKILL under ``pomona up`` is restarted and reported."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Generator

import httpx
import pytest

from support.clusters import ANSWER, Cluster, serving
from support.slack_server import Slack
from support.waiting import wait_until

RESTART_S = 60.0
ALERT_S = 60.0
SERVICES = [
    "stage_worker.1",
    "stage_worker.0",
    "gateway",
    "planner",
    "discovery",
    "health_watcher",
]


@pytest.fixture(scope="module")
def slack() -> Generator[Slack]:
    with Slack() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(slack: Slack, tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    variables = {"POMONA_HEALTH_WATCHER_SLACK_WEBHOOK_URL": slack.url}
    with serving(tmp_path_factory.mktemp("chaos"), variables=variables) as running:
        yield running


@pytest.mark.parametrize("name", SERVICES)
def test_a_killed_service_is_restarted_and_the_cluster_serves_again(
    cluster: Cluster, slack: Slack, name: str
) -> None:
    wait_until(lambda: name in cluster.pids(), f"a beacon of {name}", RESTART_S)
    pid = cluster.pids()[name]
    before = len(slack.messages)
    os.kill(pid, signal.SIGKILL)

    wait_until(lambda: cluster.pids().get(name, pid) != pid, f"{name} was restarted", RESTART_S)
    wait_until(lambda: _serves(cluster), f"an answer after the death of {name}", RESTART_S)
    wait_until(lambda: cluster.status()["state"] == "serving", "status says serving", RESTART_S)
    assert f"{name:<15} was killed by SIGKILL" in cluster.output

    def is_resolved() -> bool:
        posted = [json.dumps(message, ensure_ascii=False) for message in slack.messages[before:]]
        about = [text for text in posted if name in text]
        return len(about) >= 2 and any("esolved" in text for text in about)

    wait_until(
        is_resolved, f"alert and resolution for {name}; posted: {slack.texts[before:]}", ALERT_S
    )


def _serves(cluster: Cluster) -> bool:
    try:
        return cluster.chat() == ANSWER
    except httpx.HTTPError:
        return False
