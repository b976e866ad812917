"""The end of a lone lane's steps is predicted, and their first parts are sent just before."""

from __future__ import annotations

import pytest

from pomona_stage_worker.engine.send_timing import LEAD_S, MAX_STEPS, MIN_STEPS, SendTimer

ONE, TWO = (1, 1), (2, 1)


def steady(seconds: float, lane: int | None = 1, count: int = MIN_STEPS) -> SendTimer:
    timer = SendTimer()
    for _ in range(count):
        timer.observe(lane, ONE, seconds)
    return timer


def test_first_part_of_a_steady_lane_is_sent_just_before_the_end() -> None:
    assert steady(0.02).first_part_delay(1, ONE) == pytest.approx(0.02 - LEAD_S)


def test_shortest_recent_step_is_the_prediction() -> None:
    timer = steady(0.02)
    timer.observe(1, ONE, 0.015)
    assert timer.first_part_delay(1, ONE) == pytest.approx(0.015 - LEAD_S)
    for _ in range(MAX_STEPS):
        timer.observe(1, ONE, 0.03)
    assert timer.first_part_delay(1, ONE) == pytest.approx(0.03 - LEAD_S)


def test_first_part_is_sent_at_once_before_enough_steps() -> None:
    assert steady(0.02, count=MIN_STEPS - 1).first_part_delay(1, ONE) == 0.0


@pytest.mark.parametrize("timer", [SendTimer(), steady(LEAD_S / 2, count=MAX_STEPS)])
def test_short_or_unmeasured_step_is_sent_in_one_part(timer: SendTimer) -> None:
    assert timer.first_part_delay(1, ONE) is None
    assert timer.first_part_delay(None, ONE) is None


def test_chunks_and_other_lanes_are_sent_at_once() -> None:
    assert steady(0.02, lane=None).first_part_delay(None, ONE) == 0.0
    timer = steady(0.02)
    assert timer.first_part_delay(2, ONE) == 0.0
    assert timer.first_part_delay(1, TWO) == 0.0


def test_alternating_lanes_are_sent_at_once() -> None:
    timer = SendTimer()
    for number in range(4 * MAX_STEPS):
        timer.observe(number % 2, ONE, 0.02)
        assert timer.first_part_delay((number + 1) % 2, ONE) == 0.0


def run(timer: SendTimer, compute_s: float, late_s: float, steps: int) -> list[float]:
    """Returns the step times when the waiting thread wakes late."""
    seconds: list[float] = []
    for _ in range(steps):
        wait_s = timer.first_part_delay(1, ONE)
        waited_s = wait_s + late_s if wait_s else 0.0
        seconds.append(max(compute_s, waited_s))
        timer.observe(1, ONE, seconds[-1], waited_s)
    return seconds


def test_prediction_follows_a_machine_that_becomes_faster() -> None:
    timer = steady(0.02)
    assert run(timer, 0.01, 0.0, steps=20)[-1] == 0.01
    assert (timer.first_part_delay(1, ONE) or 0.0) <= 0.01 - LEAD_S / 2


@pytest.mark.parametrize("late_s", [0.0, 0.0005, 0.002, 0.005])
def test_thread_that_wakes_late_hardly_delays_a_lane(late_s: float) -> None:
    seconds = run(steady(0.02), 0.02, late_s, steps=1000)
    assert sum(seconds) / len(seconds) < 0.021
    assert max(seconds) <= max(0.02, 0.02 - LEAD_S + late_s) + 1e-9
