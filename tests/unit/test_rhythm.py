"""A lone user's messages are awaited when they are due, nobody else's."""

from __future__ import annotations

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


def test_uneven_intervals_are_awaited_for_longer_but_never_for_long() -> None:
    even, uneven, wild = steady(0.08, 40), Rhythm(), Rhythm()
    for rhythm, swing in ((uneven, 0.0005), (wild, 0.02)):
        now = 100.0
        for number in range(40):
            now += 0.08 + (swing if number % 2 else -swing)
            rhythm.arrived(1, now)
    widths = [end - begin for begin, end in (r.due() or (0, 0) for r in (even, uneven, wild))]
    assert 0 < widths[0] < widths[1] < widths[2] <= 0.1 * 0.1


def test_prompts_have_no_rhythm() -> None:
    assert steady(0.08, lane=None).due() is None


def test_a_second_lane_ends_the_rhythm() -> None:
    rhythm = steady(0.08)
    rhythm.arrived(2, 100.75)
    assert rhythm.due() is None


def test_messages_that_follow_each_other_at_once_need_no_waiting() -> None:
    assert steady(0.0005).due() is None
