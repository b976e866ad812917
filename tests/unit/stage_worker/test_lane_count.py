"""The lane count with the shorter round is measured and kept."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona_stage_worker.scheduler import RunStep
from pomona_stage_worker.scheduler.lane_count import (
    MAX_RETRIAL_ROUNDS,
    MAX_TRIAL_FACTOR,
    MIN_TRIAL_ROUNDS,
    RETRIAL_ROUNDS,
    TRIAL_ROUNDS,
    LaneCountTuner,
)
from support.doubles.timed_pipeline import TimedPipeline


def drive(
    tuner: LaneCountTuner, rows: int, times: int, seconds: Callable[[int], float | None]
) -> list[int]:
    """Observes rounds of all lanes, each as long as ``seconds`` returns for their number.

    Returns the lane count of each round.
    """
    kept: list[int] = []
    for _ in range(times):
        lanes = tuner.lanes(rows)
        kept.append(lanes)
        for _ in range(lanes):
            tuner.observe(rows, lanes, seconds(lanes))
    return kept


@pytest.mark.parametrize(("fewer", "best"), [(0.5, 3), (0.98, 3), (0.995, 4), (1.0, 4), (1.09, 4)])
def test_both_counts_are_tried_and_the_faster_one_is_kept(fewer: float, best: int) -> None:
    tuner = LaneCountTuner(4)
    kept = drive(tuner, 9, 80, lambda lanes: fewer if lanes == 3 else 1.0)
    assert kept[:TRIAL_ROUNDS] == [4] * TRIAL_ROUNDS
    assert kept[TRIAL_ROUNDS : 2 * TRIAL_ROUNDS] == [3] * TRIAL_ROUNDS
    assert set(kept[2 * TRIAL_ROUNDS :]) == {best}


def test_clearly_slower_count_is_abandoned_early() -> None:
    kept = drive(LaneCountTuner(4), 9, 80, lambda lanes: 1.2 if lanes == 3 else 1.0)
    begin, end = TRIAL_ROUNDS, TRIAL_ROUNDS + MIN_TRIAL_ROUNDS
    assert kept[begin:end] == [3] * MIN_TRIAL_ROUNDS
    assert set(kept[:begin] + kept[end:]) == {4}


def test_one_long_round_does_not_abandon_a_trial() -> None:
    tuner = LaneCountTuner(4)
    drive(tuner, 9, TRIAL_ROUNDS, lambda _: 1.0)
    drive(tuner, 9, 1, lambda _: 9.0)
    kept = drive(tuner, 9, 80, lambda lanes: 0.5 if lanes == 3 else 1.0)
    assert set(kept) == {3}


def test_new_number_of_rows_starts_with_the_best_count_of_the_nearest() -> None:
    tuner = LaneCountTuner(2)
    drive(tuner, 4, 80, lambda lanes: float(lanes))
    drive(tuner, 20, 80, lambda lanes: 1 / lanes)
    assert (tuner.lanes(5), tuner.lanes(19)) == (1, 2)


def test_settled_count_is_tried_again() -> None:
    tuner = LaneCountTuner(2)
    first = drive(tuner, 2, 2 * TRIAL_ROUNDS + RETRIAL_ROUNDS, lambda lanes: float(lanes))
    assert set(first[2 * TRIAL_ROUNDS :]) == {1}
    again = drive(tuner, 2, 3 * TRIAL_ROUNDS, lambda lanes: 1 / lanes)
    assert again == [1] * TRIAL_ROUNDS + [2] * 2 * TRIAL_ROUNDS


@pytest.mark.parametrize(
    ("worse", "rarer"), [(1.05, [1, 2, 4, 8, 16, 32, 64, 64]), (2.0, [1, 8, 64, 64])]
)
def test_trials_that_change_nothing_become_rarer(worse: float, rarer: list[int]) -> None:
    """Trials of a clearly slower count become rarer faster, because they slow users down."""
    tuner = LaneCountTuner(2)
    kept = drive(tuner, 2, 4 * MAX_RETRIAL_ROUNDS, lambda lanes: worse if lanes == 2 else 1.0)
    trials = [i for i, (a, b) in enumerate(pairwise(kept)) if (a, b) == (1, 2)]
    waits = [(b - a) // RETRIAL_ROUNDS for a, b in pairwise([0, *trials])]
    assert waits[: len(rarer)] == rarer
    assert set(waits[len(rarer) :]) <= {64}
    drive(tuner, 2, MAX_RETRIAL_ROUNDS, lambda lanes: 2.0 if lanes == 1 else 1.0)
    assert tuner.lanes(2) == 2


def test_backoff_restarts_after_a_change() -> None:
    tuner = LaneCountTuner(2)
    drive(tuner, 2, 20 * RETRIAL_ROUNDS, lambda lanes: 1.05 if lanes == 2 else 1.0)
    kept = drive(tuner, 2, 30 * RETRIAL_ROUNDS, lambda lanes: 1.05 if lanes == 1 else 1.0)
    changed = kept.index(2) + TRIAL_ROUNDS
    assert kept[changed] == 2
    assert (kept.index(1, changed) - changed) // RETRIAL_ROUNDS == 1


def test_trial_that_is_always_disturbed_ends() -> None:
    """Otherwise a busy cluster might keep a count that was never compared."""
    tuner = LaneCountTuner(2)
    drive(tuner, 4, TRIAL_ROUNDS, lambda _: 1.0)
    kept = drive(tuner, 4, 99 * TRIAL_ROUNDS, lambda _: None)
    assert kept[: MAX_TRIAL_FACTOR * TRIAL_ROUNDS] == [1] * MAX_TRIAL_FACTOR * TRIAL_ROUNDS
    assert set(kept[MAX_TRIAL_FACTOR * TRIAL_ROUNDS :]) == {2}


@given(stages=st.integers(1, 9), rows=st.integers(0, 40), seconds=st.floats(0, 9))
def test_lane_count_is_fixed_when_no_lane_would_be_shared(
    stages: int, rows: int, seconds: float
) -> None:
    tuner = LaneCountTuner(stages)
    kept = drive(tuner, rows, 40, lambda _: seconds)
    fewest = stages if stages == 1 or rows < stages or not seconds else stages - 1
    assert min(kept) == fewest
    assert max(kept) == stages


def widths(stages: int, users: int, row_cost: float) -> list[int]:
    """Returns the rows of decode steps once the lane count has settled.

    A step takes 0.7 to 1.3 seconds in each stage, and ``row_cost`` seconds for each further row.
    """
    chance = random.Random(stages)

    def seconds(run: RunStep) -> float:
        return chance.uniform(0.7, 1.3) + row_cost * (len(run.step.rows) - 1)

    pipeline = TimedPipeline(stages, seconds)
    for _ in range(users):
        pipeline.submit(3, 250)
    pipeline.run()
    assert [len(moments) for moments in pipeline.token_times.values()] == [250] * users
    found = [len(step.rows) for step in pipeline.steps if step.lane is not None]
    return found[len(found) // 2 : -len(found) // 8]


@pytest.mark.parametrize(("stages", "users"), [(2, 2), (2, 4), (4, 6), (8, 8)])
def test_lanes_are_merged_when_an_additional_row_costs_little(stages: int, users: int) -> None:
    """Steps of varying length delay each other when no stage is free."""
    fewer, as_many = -(-users // (stages - 1)), -(-users // stages)
    assert max(widths(stages, users, 0.0)) == fewer
    assert max(widths(stages, users, 1.0)) == as_many
