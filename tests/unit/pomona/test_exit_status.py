"""Exit statuses by which launchd and systemd decide whether to start a service again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pomona.exit_status import EXIT_CONFIGURATION, EXIT_TERMINATED, exit_status
from support.processes import DEADLINE_S, Node, ServiceProcess
from support.waiting import wait_until

LAUNCHD = {"XPC_SERVICE_NAME": "com.pomona.discovery"}


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("com.pomona.gateway", EXIT_CONFIGURATION, 0),
        ("com.pomona.gateway", 0, EXIT_TERMINATED),
        ("com.pomona.gateway", 79, 79),
        ("com.apple.Terminal", EXIT_CONFIGURATION, EXIT_CONFIGURATION),
        ("", 0, 0),
    ],
)
def test_launchd_is_told_what_to_start_again(
    name: str, code: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XPC_SERVICE_NAME", name)
    assert exit_status(code) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("variables", "expected"), [({}, EXIT_CONFIGURATION), (LAUNCHD, 0)])
def test_a_wrong_setting_is_not_tried_again(variables: dict[str, str], expected: int) -> None:
    wrong = {"POMONA_DISCOVERY_PEER_PORT": "many"}
    clean = {k: v for k, v in os.environ.items() if not k.startswith("POMONA_")}
    ended = subprocess.run(
        [sys.executable, "-m", "pomona_discovery"],
        env=clean | wrong | variables,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == expected, ended.stderr


@pytest.mark.slow
def test_a_service_that_is_ended_is_started_again_by_launchd(tmp_path: Path) -> None:
    node = Node("mac", tmp_path)
    log = tmp_path / "discovery.log"
    variables = {**node.environment, **LAUNCHD}
    variables["POMONA_DISCOVERY_PEER_PORT"] = str(node.peer_port)
    with ServiceProcess("discovery", log, variables) as service:
        wait_until(lambda: "ready" in service.logged() or not service.is_running(), "it runs")
        os.kill(service.pid, signal.SIGTERM)
        assert service.wait() == EXIT_TERMINATED, service.logged()
