"""State files keep pipelines over restarts and never stop planning."""

from __future__ import annotations

from pathlib import Path

from pomona_planner.control.state_files import PlanFile
from support.planner_beacons import controller, form, loaded


def test_a_restarted_planner_adopts_the_saved_pipeline(tmp_path: Path) -> None:
    planner = controller()
    pipeline = form(planner)
    active = planner.decide(loaded(pipeline), 8, 1.0)
    PlanFile(tmp_path).write((active,))

    file = PlanFile(tmp_path)
    assert file.epoch == 7
    restarted = controller(saved=file.pipelines[0])
    assert restarted.decide(loaded(pipeline), 8, 0.0) == active


def test_an_unreadable_file_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    file = PlanFile(tmp_path)
    assert (file.epoch, file.pipelines) == (0, ())


def test_a_failed_write_does_not_stop_planning(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    file = PlanFile(blocked)
    file.write((form(controller()),))
    assert file.epoch == 7
