"""A step that takes several times as long as before is a hang; a pause of the machine is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pomona_stage_worker.engine.progress_watch import FLOORS_S, Activity, Kind, ProgressWatch

TICK_S = 0.1


def watched(watch: ProgressWatch, activity: Activity, seconds: float) -> Iterator[float]:
    """Yields the ages at which the activity hangs, sampled for so many seconds."""
    for tick in range(int(seconds / TICK_S)):
        if watch.hangs(activity, activity.began + tick * TICK_S):
            yield tick * TICK_S


def first_hang(watch: ProgressWatch, activity: Activity, seconds: float = 500.0) -> float | None:
    return next(watched(watch, activity, seconds), None)


@pytest.mark.parametrize("kind", FLOORS_S)
def test_an_activity_without_history_hangs_at_the_floor_of_its_kind(kind: Kind) -> None:
    found = first_hang(ProgressWatch(), Activity(kind, 50.0))
    assert found == pytest.approx(FLOORS_S[kind], abs=2 * TICK_S)


def test_a_step_may_take_several_times_the_longest_that_ever_was() -> None:
    watch = ProgressWatch()
    assert first_hang(watch, Activity("decode", 0.0), 4.0) is None
    assert first_hang(watch, Activity("decode", 10.0), 18.0) is None
    found = first_hang(watch, Activity("decode", 40.0))
    assert found == pytest.approx(5 * 18.0, rel=0.05)


def test_the_warm_up_tells_what_the_first_steps_may_take() -> None:
    watch = ProgressWatch(decode_s=2.0)
    assert watch.limit_s(Activity("decode", 0.0)) == 10.0
    assert watch.limit_s(Activity("prefill", 0.0, tokens=512)) == 5120.0


def test_a_prefill_is_measured_by_its_tokens() -> None:
    watch = ProgressWatch()
    assert first_hang(watch, Activity("prefill", 0.0, tokens=100), 10.0) is None
    assert first_hang(watch, Activity("prefill", 20.0, tokens=10), 8.0) is None
    watch.hangs(Activity("turn", 50.0), 50.0)
    assert watch.limit_s(Activity("prefill", 60.0, tokens=100)) == pytest.approx(400.0, rel=0.05)


def test_new_activities_never_hang_however_many_there_are() -> None:
    watch = ProgressWatch()
    for number in range(1000):
        assert not watch.hangs(Activity("decode", float(number)), number + 0.5)


def test_a_machine_that_slept_does_not_hang() -> None:
    watch = ProgressWatch()
    activity = Activity("turn", 0.0)
    assert first_hang(watch, activity, 2.0) is None
    assert not watch.hangs(activity, 3600.0)
    assert not watch.hangs(activity, 3600.0 + TICK_S)


def test_a_process_that_slept_before_the_activity_began_does_not_hang() -> None:
    watch = ProgressWatch()
    watch.hangs(Activity("turn", 0.0), 0.0)
    assert not watch.hangs(Activity("turn", 0.1), 3600.0)
    assert not watch.hangs(Activity("turn", 0.1), 3600.1)
