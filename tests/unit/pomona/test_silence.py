"""Ends only services whose beacons have stopped."""

from __future__ import annotations

from pomona.silence import SILENCE_S, STOPPED_S, SilenceWatch

PIDS = {"discovery": 1, "planner": 2, "stage_worker.0": 3}
STEP_S = 0.5


def play(watch: SilenceWatch, speaking: set[str], start: float, seconds: float) -> list[str]:
    """Returns what was ended while only ``speaking`` send beacons."""
    ended: list[str] = []
    for step in range(int(seconds / STEP_S)):
        now = start + step * STEP_S
        for service in speaking:
            watch.observe(service, PIDS[service], now)
        ended += watch.silent(PIDS, now)
    return ended


def test_a_service_that_falls_silent_is_ended_once() -> None:
    watch = SilenceWatch()
    assert play(watch, set(PIDS), 0.0, 60.0) == []
    rest = {"discovery", "planner"}
    assert play(watch, rest, 60.0, SILENCE_S) == []
    assert play(watch, rest, 60.0 + SILENCE_S, 60.0) == ["stage_worker.0"]


def test_a_suspended_service_is_ended_sooner() -> None:
    watch = SilenceWatch()
    play(watch, set(PIDS), 0.0, 10.0)
    watch.observe("stage_worker.0", 3, 10.0)
    ends_at = 10.0 + STOPPED_S
    for now, ended in ((ends_at, []), (ends_at + 0.1, ["stage_worker.0"]), (ends_at + 0.2, [])):
        watch.observe("discovery", 1, now)
        watch.observe("planner", 2, now)
        assert watch.silent(PIDS, now, lambda service: service == "stage_worker.0") == ended


def test_a_service_that_never_spoke_is_still_starting() -> None:
    assert play(SilenceWatch(), {"discovery", "planner"}, 0.0, 600.0) == []


def test_when_nobody_is_heard_only_discovery_is_ended() -> None:
    watch = SilenceWatch()
    play(watch, set(PIDS), 0.0, 10.0)
    assert play(watch, set(), 10.0, 60.0) == ["discovery"]
    assert play(watch, set(PIDS), 70.0, 60.0) == []


def test_others_get_their_whole_time_after_discovery_has_come_back() -> None:
    watch = SilenceWatch()
    play(watch, set(PIDS), 0.0, 10.0)
    play(watch, set(), 10.0, 60.0)
    assert play(watch, {"discovery"}, 70.0, SILENCE_S) == []
    assert sorted(play(watch, {"discovery"}, 70.0 + SILENCE_S, 5.0)) == [
        "planner",
        "stage_worker.0",
    ]


def test_a_pause_of_the_supervisor_itself_ends_nobody() -> None:
    watch = SilenceWatch()
    play(watch, set(PIDS), 0.0, 10.0)
    assert watch.silent(PIDS, 3600.0) == []
    assert play(watch, set(PIDS), 3600.5, 60.0) == []


def test_a_restarted_process_is_watched_anew() -> None:
    watch = SilenceWatch()
    play(watch, set(PIDS), 0.0, 10.0)
    for step in range(100):
        now = 10.0 + step * STEP_S
        watch.observe("discovery", 1, now)
        assert watch.silent({"discovery": 1, "stage_worker.0": 99}, now) == []
