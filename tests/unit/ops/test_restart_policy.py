"""When a dead service is started again."""

from __future__ import annotations

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


def test_the_delay_doubles_up_to_its_bound() -> None:
    policy = RestartPolicy()
    delays: list[float] = []
    for _ in range(8):
        decision, policy = policy.died(1, 0.1)
        assert isinstance(decision, Restart)
        delays.append(decision.delay_s)
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, LONGEST_DELAY_S, LONGEST_DELAY_S]


def test_a_long_life_starts_the_delay_over() -> None:
    policy = RestartPolicy()
    for _ in range(5):
        _, policy = policy.died(-9, 1.0)
    decision, policy = policy.died(-9, HEALTHY_AFTER_S)
    assert decision == Restart(FIRST_DELAY_S)
    assert policy.died(-9, 1.0)[0] == Restart(FIRST_DELAY_S * 2)


def test_unusable_settings_are_not_tried_again() -> None:
    decision, _ = RestartPolicy().died(EXIT_CONFIGURATION, 0.5)
    assert decision == GiveUp()


def test_settings_that_worked_before_are_tried_again() -> None:
    _, policy = RestartPolicy().died(-9, STARTED_AFTER_S)
    assert isinstance(policy.died(EXIT_CONFIGURATION, 0.1)[0], Restart)


@given(st.lists(st.tuples(other_codes, st.floats(0, 100)), max_size=50))
def test_a_service_that_dies_of_anything_else_always_comes_back(
    deaths: list[tuple[int, float]],
) -> None:
    policy = RestartPolicy()
    for code, lived_s in deaths:
        decision, policy = policy.died(code, lived_s)
        assert isinstance(decision, Restart)
        assert FIRST_DELAY_S <= decision.delay_s <= LONGEST_DELAY_S
