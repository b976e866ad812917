"""Depth and width follow the measured times and the share of right guesses."""

from __future__ import annotations

import pytest

from pomona_stage_worker.speculation.depth import DepthPolicy


def measured(*stage_us: int, width: int = 1, hops_us: int = 0) -> DepthPolicy:
    policy = DepthPolicy(len(stage_us))
    policy.observe(1, stage_us, sum(stage_us) + hops_us)
    if width > 1:
        policy.observe(width, stage_us, None)
    return policy


def test_nothing_is_guessed_before_a_step_was_measured() -> None:
    assert DepthPolicy(4).choose(0.9, 4, 4) == (1, 1)


@pytest.mark.parametrize(("stages", "rate", "gain"), [(4, 0.7, 2.1), (8, 0.8, 3.33)])
def test_equal_stages_gain_what_the_formula_says(stages: int, rate: float, gain: float) -> None:
    policy = measured(*[10_000] * stages)
    assert policy.choose(rate, stages, 1) == (stages, 1)
    assert policy.speed(rate, stages, 1) / policy.speed(rate, 1, 1) == pytest.approx(gain, abs=0.01)  # type: ignore[reportUnknownMemberType]


def test_guesses_that_are_hardly_ever_right_are_not_sent() -> None:
    assert measured(10_000, 10_000, 10_000, 10_000).choose(0.02, 4, 1) == (1, 1)


def test_a_slow_first_stage_gains_nothing_from_unlikely_guesses() -> None:
    policy = measured(30_000, 2_000)
    assert policy.choose(0.3, 2, 1) == (1, 1)


def test_a_slow_tail_delays_nothing() -> None:
    policy = measured(5_000, 30_000)
    assert policy.choose(0.5, 2, 1)[0] == 2


def test_width_is_used_when_it_costs_nothing() -> None:
    policy = measured(10_000, 10_000, width=4)
    assert policy.choose(0.9, 2, 4) == (2, 4)
    assert policy.choose(0.9, 2, 1) == (2, 1)


def test_width_is_not_used_when_it_costs_more_than_it_gives() -> None:
    policy = measured(10_000)
    policy.observe(2, (19_000,), None)
    policy.observe(4, (38_000,), None)
    assert policy.choose(0.5, 1, 4) == (1, 1)
    assert policy.choose(0.9, 1, 4) == (1, 1)


def test_hops_leave_room_for_guesses() -> None:
    policy = measured(1_000, 1_000, hops_us=2_000)
    assert policy.round_us == 4_000
    assert policy.head_us == 1_000
