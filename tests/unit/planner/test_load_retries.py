"""Retries of failed loads come after growing pauses."""

from __future__ import annotations

from pomona_planner.control.load_retries import PAUSES_S, LoadRetries


def test_each_failure_waits_longer_and_then_retries_once() -> None:
    retries = LoadRetries()
    now = 100.0
    for pause in (*PAUSES_S, PAUSES_S[-1]):
        assert not retries.is_due(now), "the first call schedules the retry"
        assert not retries.is_due(now + pause - 0.1)
        assert retries.is_due(now + pause)
        now += pause + 1.0


def test_success_starts_with_the_shortest_pause_again() -> None:
    retries = LoadRetries()
    assert not retries.is_due(0.0)
    assert retries.is_due(PAUSES_S[0])
    retries.reset()
    assert not retries.is_due(50.0)
    assert retries.is_due(50.0 + PAUSES_S[0])
