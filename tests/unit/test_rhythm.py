"""A lone user's messages are awaited when they are due, nobody else's."""

from __future__ import annotations

import pytest

from pomona_stage_worker.rhythm import Rhythm


def steady(interval_s: float, count: int = 10, lane: int | None = 1) -> Rhythm:
    rhythm = Rhythm()
    for number in range(count):
        rhythm.arrived(lane, 100.0 + number * interval_s)
    return rhythm


def test_a_steady_lane_is_awaited_around_its_next_message() -> None:
    due = steady(0.08).due()
    assert due is not None
    begin, end = due
    assert begin < 100.0 + 10 * 0.08 < end
    assert end - begin < 0.02


@pytest.mark.parametrize("lane", [None])
def test_prompts_have_no_rhythm(lane: int | None) -> None:
    assert steady(0.08, lane=lane).due() is None


def test_a_second_lane_ends_the_rhythm() -> None:
    rhythm = steady(0.08)
    rhythm.arrived(2, 100.75)
    assert rhythm.due() is None


def test_messages_that_follow_each_other_at_once_need_no_waiting() -> None:
    assert steady(0.0005).due() is None
