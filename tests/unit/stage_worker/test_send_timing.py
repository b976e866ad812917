"""What a lone lane's steps take is foreseen, so that their messages begin a moment before."""

from __future__ import annotations

import pytest

from pomona_stage_worker.engine.send_timing import LEAD_S, LEAST_SEEN, MOST_SEEN, SendTimer

ONE, TWO = (1, 1), (2, 1)


def steady(seconds: float, lane: int | None = 1, count: int = LEAST_SEEN) -> SendTimer:
    foresight = SendTimer()
    for _ in range(count):
        foresight.took(lane, ONE, seconds)
    return foresight


def test_a_steady_lane_is_announced_a_moment_before_its_step_ends() -> None:
    assert steady(0.02).announce_after(1, ONE) == pytest.approx(0.02 - LEAD_S)


def test_the_quickest_step_of_late_counts() -> None:
    foresight = steady(0.02)
    foresight.took(1, ONE, 0.015)
    assert foresight.announce_after(1, ONE) == pytest.approx(0.015 - LEAD_S)
    for _ in range(MOST_SEEN):
        foresight.took(1, ONE, 0.03)
    assert foresight.announce_after(1, ONE) == pytest.approx(0.03 - LEAD_S)


def test_what_is_hardly_known_is_announced_at_once() -> None:
    assert steady(0.02, count=LEAST_SEEN - 1).announce_after(1, ONE) == 0.0


@pytest.mark.parametrize("foresight", [SendTimer(), steady(LEAD_S / 2, count=MOST_SEEN)])
def test_what_is_short_or_was_never_seen_is_not_announced(foresight: SendTimer) -> None:
    assert foresight.announce_after(1, ONE) is None
    assert foresight.announce_after(None, ONE) is None


def test_prompts_and_other_lanes_are_announced_at_once() -> None:
    assert steady(0.02, lane=None).announce_after(None, ONE) == 0.0
    foresight = steady(0.02)
    assert foresight.announce_after(2, ONE) == 0.0
    assert foresight.announce_after(1, TWO) == 0.0


def test_a_lane_between_whose_steps_others_come_is_announced_at_once() -> None:
    foresight = SendTimer()
    for number in range(4 * MOST_SEEN):
        foresight.took(number % 2, ONE, 0.02)
        assert foresight.announce_after((number + 1) % 2, ONE) == 0.0


def run(foresight: SendTimer, compute_s: float, late_s: float, steps: int) -> list[float]:
    """How long steps take that are waited for by a thread which is woken late."""
    seconds: list[float] = []
    for _ in range(steps):
        wait_s = foresight.announce_after(1, ONE)
        waited_s = wait_s + late_s if wait_s else 0.0
        seconds.append(max(compute_s, waited_s))
        foresight.took(1, ONE, seconds[-1], waited_s)
    return seconds


def test_a_machine_that_becomes_faster_is_followed() -> None:
    foresight = steady(0.02)
    assert run(foresight, 0.01, 0.0, steps=20)[-1] == 0.01
    assert (foresight.announce_after(1, ONE) or 0.0) <= 0.01 - LEAD_S / 2


@pytest.mark.parametrize("late_s", [0.0, 0.0005, 0.002, 0.005])
def test_a_thread_that_is_woken_late_hardly_delays_a_lane(late_s: float) -> None:
    seconds = run(steady(0.02), 0.02, late_s, steps=1000)
    assert sum(seconds) / len(seconds) < 0.021
    assert max(seconds) <= max(0.02, 0.02 - LEAD_S + late_s) + 1e-9
