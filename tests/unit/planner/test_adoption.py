"""A healthy pipeline outlives its planners, whatever happens to them and to their files."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.doubles.plan_world import World

FILE_FAULTS = ("kept", "lost", "older", "truncated", "unwritable")
PLANNERS = ("p.planner", "q.planner")
WORKERS = ("a", "b", "c")
FORM_S = 12.0


def spoil(folder: Path, fault: str, older: bytes) -> None:
    """Does to a planner's file what a disk or an operator may do."""
    path = folder / "plan.json"
    match fault:
        case "lost":
            shutil.rmtree(folder, ignore_errors=True)
        case "older":
            if folder.is_file():
                folder.unlink()
            folder.mkdir(exist_ok=True)
            path.write_bytes(older)
        case "truncated" if path.exists():
            path.write_bytes(path.read_bytes()[:40])
        case "unwritable":
            shutil.rmtree(folder, ignore_errors=True)
            folder.write_bytes(b"not a folder")
        case _:
            pass


def formed(folder: Path, restarts: int = 0) -> World:
    """Returns a cluster with a healthy pipeline, after restarts of one of its workers."""
    world = World(folder)
    world.start_planner(PLANNERS[0])
    for name in WORKERS:
        world.start_worker(name)
    world.run(FORM_S)
    for _ in range(restarts):
        world.start_worker("b")
        world.run(FORM_S)
    assert world.healthy_epoch() > restarts
    return world


ACTIONS = st.one_of(
    st.tuples(st.just("run"), st.floats(0.25, 12.0)),
    st.tuples(st.just("kill"), st.sampled_from(PLANNERS)),
    st.tuples(st.just("start"), st.sampled_from(PLANNERS), st.sampled_from(FILE_FAULTS)),
    st.tuples(st.just("delay"), st.sampled_from((*WORKERS, *PLANNERS)), st.integers(0, 7)),
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(ACTIONS, max_size=14), st.integers(0, 2))
def test_a_healthy_pipeline_keeps_its_epoch_whatever_happens_to_planners(
    actions: list[tuple[object, ...]], restarts: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = formed(folder, restarts)
        older = (folder / PLANNERS[0] / "plan.json").read_bytes()
        world.start_worker("b")
        world.run(FORM_S)
        epoch = world.healthy_epoch()
        assert epoch > restarts + 1
        for action in (*actions, ("start", PLANNERS[0], "kept"), ("run", 20.0)):
            match action:
                case ("run", float(seconds)):
                    world.run(seconds)
                case ("kill", str(planner)):
                    world.planners.pop(planner, None)
                case ("start", str(planner), str(fault)):
                    spoil(folder / planner, fault, older)
                    world.start_planner(planner)
                case ("delay", str(service), int(ticks)):
                    world.delay_ticks[service] = ticks
                case _:
                    raise AssertionError(action)
            assert world.healthy_epoch() == epoch, action
        assert any(x.plan.pipelines()[0].epoch == epoch for x in world.planners.values())


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(ACTIONS, max_size=8), st.sampled_from(WORKERS))
def test_after_any_faults_a_lost_worker_is_planned_around_under_a_higher_epoch(
    actions: list[tuple[object, ...]], lost: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = formed(folder)
        for action in actions:
            if action[0] == "start":
                spoil(folder / str(action[1]), str(action[2]), b"[]")
                world.start_planner(str(action[1]))
            elif action[0] == "kill":
                world.planners.pop(str(action[1]), None)
            elif action[0] == "run":
                world.run(float(str(action[1])))
        before = world.healthy_epoch()
        for planner in PLANNERS:
            if planner not in world.planners:
                world.start_planner(planner)
        world.start_worker(lost)
        world.run(30.0)
        after = world.healthy_epoch()
        assert after >= before > 0
        for worker in world.workers.values():
            assert worker.told == sorted(worker.told)


def test_a_second_planner_waits_and_takes_over_with_the_same_epoch(tmp_path: Path) -> None:
    world = formed(tmp_path)
    epoch = world.healthy_epoch()
    world.start_planner(PLANNERS[1])
    world.run(10.0)
    assert [x.plan.leads for x in world.planners.values()] == [True, False]
    del world.planners[PLANNERS[0]]
    world.run(10.0)
    assert world.planners[PLANNERS[1]].plan.leads
    assert world.healthy_epoch() == epoch


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_a_restarted_planner_goes_on_with_what_the_workers_run(tmp_path: Path, fault: str) -> None:
    world = formed(tmp_path, restarts=1)
    older = (tmp_path / PLANNERS[0] / "plan.json").read_bytes()
    world.start_worker("a")
    world.run(FORM_S)
    epoch = world.healthy_epoch()
    spoil(tmp_path / PLANNERS[0], fault, older)
    world.start_planner(PLANNERS[0])
    world.run(10.0)
    assert world.healthy_epoch() == epoch
    assert world.planners[PLANNERS[0]].plan.pipelines()[0].epoch == epoch
    world.start_worker("a")
    world.start_worker("b")
    world.run(FORM_S)
    assert world.healthy_epoch() > epoch
