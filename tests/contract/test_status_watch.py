"""``pomona status --watch`` into a pipe, beside a real discovery service."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from support.clusters import pomona, run_pomona
from support.processes import Node
from support.waiting import wait_until


def test_reports_follow_each_other_until_the_cluster_is_gone(tmp_path: Path) -> None:
    node = Node("mac", tmp_path)
    environment: dict[str, Any] = {**node.environment}
    output, errors = tmp_path / "output", tmp_path / "errors"
    with node.discovery() as discovery:
        wait_until(
            lambda: "degraded" in run_pomona("status", **environment).stdout, "discovery's beacon"
        )
        with output.open("wb") as out, errors.open("wb") as error:
            watching = subprocess.Popen(
                pomona("status", "--watch"),
                env=os.environ | environment,
                stdout=out,
                stderr=error,
            )
        try:
            wait_until(lambda: output.read_text().count("pomona is degraded") >= 2, "two reports")
            assert watching.poll() is None
            discovery.kill()
            assert watching.wait(20) == 2
        finally:
            watching.kill()
            watching.wait(60)
    assert "No beacons from a cluster called pomona at" in errors.read_text()


def test_watch_and_json_exclude_each_other() -> None:
    done = run_pomona("status", "--watch", "--json")
    assert done.returncode == 2
    assert "--watch cannot be combined" in done.stderr
