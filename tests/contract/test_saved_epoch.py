"""An epoch is never used again, although planner and workers restart and the plan is lost."""

from __future__ import annotations

from pathlib import Path

from support.beacon_thread import BeaconThread
from support.processes import Node, ServiceProcess


def test_a_planner_without_files_goes_on_above_what_restarted_workers_obeyed(
    tmp_path: Path,
) -> None:
    node = Node("mac", tmp_path)
    variables = {"POMONA_PLANNER_STAGES": "1", "POMONA_STAGE_WORKER_HOLD_MS": "1"}
    environment = node.environment | variables
    with (
        node.discovery(),
        ServiceProcess("planner", tmp_path / "planner.log", environment) as planner,
        ServiceProcess(
            "stage_worker",
            tmp_path / "worker.log",
            environment,
            "pomona_stage_worker.testing.emulated",
        ) as worker,
    ):
        with BeaconThread(node) as beacons:
            epoch = beacons.wait_active().epoch
            for _ in range(2):
                worker.kill()
                worker.start()
                epoch = beacons.wait_active(above=epoch).epoch
        planner.kill()
        worker.kill()
        for name in ("plan.json", "models.json"):
            (tmp_path / name).unlink(missing_ok=True)
        planner.start()
        worker.start()
        with BeaconThread(node) as beacons:
            assert beacons.wait_active().epoch > epoch
