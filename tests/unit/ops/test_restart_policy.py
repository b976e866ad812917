"""Restart decisions for a service that exited."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.service import EXIT_CONFIGURATION
from pomona_ops.up.restart_policy import (
    FIRST_DELAY_S,
    HEALTHY_AFTER_S,
    LONGEST_DELAY_S,
    STARTED_AFTER_S,
    GiveUp,
    Restart,
    RestartPolicy,
)

other_codes = st.integers(-64, 255).filter(lambda code: code != EXIT_CONFIGURATION)


def test_the_delay_doubles_up_to_its_limit() -> None:
    policy = RestartPolicy()
    delays: list[float] = []
    for _ in range(8):
        decision, policy = policy.on_exit(1, 0.1)
        assert isinstance(decision, Restart)
        delays.append(decision.delay_s)
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, LONGEST_DELAY_S, LONGEST_DELAY_S]


def test_a_long_uptime_resets_the_delay() -> None:
    policy = RestartPolicy()
    for _ in range(5):
        _, policy = policy.on_exit(1, 1.0)
    decision, policy = policy.on_exit(1, HEALTHY_AFTER_S)
    assert decision == Restart(FIRST_DELAY_S)
    assert policy.on_exit(1, 1.0)[0] == Restart(FIRST_DELAY_S * 2)


def test_invalid_settings_are_not_retried() -> None:
    decision, _ = RestartPolicy().on_exit(EXIT_CONFIGURATION, 0.5)
    assert decision == GiveUp()


def test_settings_that_worked_before_are_retried() -> None:
    _, policy = RestartPolicy().on_exit(-9, STARTED_AFTER_S)
    assert isinstance(policy.on_exit(EXIT_CONFIGURATION, 0.1)[0], Restart)


@given(st.lists(st.tuples(other_codes, st.floats(0, 100)), max_size=50))
def test_any_other_exit_is_always_restarted(
    exits: list[tuple[int, float]],
) -> None:
    policy = RestartPolicy()
    for code, uptime_s in exits:
        decision, policy = policy.on_exit(code, uptime_s)
        assert isinstance(decision, Restart)
        assert FIRST_DELAY_S <= decision.delay_s <= LONGEST_DELAY_S


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGTERM])
def test_a_service_that_others_end_again_and_again_is_restarted_at_once(code: int) -> None:
    policy = RestartPolicy()
    for _ in range(14):
        decision, policy = policy.on_exit(code, STARTED_AFTER_S)
        assert decision == Restart(FIRST_DELAY_S)
    _, policy = policy.on_exit(-signal.SIGSEGV, STARTED_AFTER_S)
    assert policy.on_exit(-signal.SIGSEGV, STARTED_AFTER_S)[0] == Restart(2 * FIRST_DELAY_S)
