"""How many lanes are kept: whichever number brings them round sooner."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.messages.pipeline import Step
from pomona.messages.sampling import Sampling
from pomona_stage_worker.scheduler import PlannedStep, SchedulerLimits, lane_count
from pomona_stage_worker.scheduler.lane_count import (
    MOST_SETTLED_ROUNDS,
    PATIENCE,
    SEEN_ROUNDS,
    SETTLED_ROUNDS,
    TRIED_ROUNDS,
    LaneCountTuner,
)
from pomona_stage_worker.testing.emulated import EmulatedStage
from support.doubles.pipeline import InProcessPipeline
from support.doubles.timed_pipeline import TimedPipeline


def drive(
    known: LaneCountTuner, rows: int, times: int, seconds: Callable[[int], float | None]
) -> list[int]:
    """Rounds of all lanes, each as long as ``seconds`` says of their number. Returns: how many
    lanes were kept, round by round."""
    kept: list[int] = []
    for _ in range(times):
        lanes = known.lanes(rows)
        kept.append(lanes)
        for _ in range(lanes):
            known.observe(rows, lanes, seconds(lanes))
    return kept


@pytest.mark.parametrize(("fewer", "best"), [(0.5, 3), (0.98, 3), (0.995, 4), (1.0, 4), (1.09, 4)])
def test_both_are_tried_and_the_one_that_is_clearly_sooner_is_kept(fewer: float, best: int) -> None:
    known = LaneCountTuner(4)
    kept = drive(known, 9, 80, lambda lanes: fewer if lanes == 3 else 1.0)
    assert kept[:TRIED_ROUNDS] == [4] * TRIED_ROUNDS
    assert kept[TRIED_ROUNDS : 2 * TRIED_ROUNDS] == [3] * TRIED_ROUNDS
    assert set(kept[2 * TRIED_ROUNDS :]) == {best}


def test_what_is_plainly_worse_is_not_tried_to_the_end() -> None:
    kept = drive(LaneCountTuner(4), 9, 80, lambda lanes: 1.2 if lanes == 3 else 1.0)
    begin, end = TRIED_ROUNDS, TRIED_ROUNDS + SEEN_ROUNDS
    assert kept[begin:end] == [3] * SEEN_ROUNDS
    assert set(kept[:begin] + kept[end:]) == {4}


def test_one_long_round_is_not_plainly_worse() -> None:
    known = LaneCountTuner(4)
    drive(known, 9, TRIED_ROUNDS, lambda _: 1.0)
    drive(known, 9, 1, lambda _: 9.0)
    kept = drive(known, 9, 80, lambda lanes: 0.5 if lanes == 3 else 1.0)
    assert set(kept) == {3}


def test_other_numbers_of_rows_begin_with_what_was_better_for_the_nearest() -> None:
    known = LaneCountTuner(2)
    drive(known, 4, 80, lambda lanes: float(lanes))
    drive(known, 20, 80, lambda lanes: 1 / lanes)
    assert (known.lanes(5), known.lanes(19)) == (1, 2)


def test_what_was_settled_is_tried_again_after_a_while() -> None:
    known = LaneCountTuner(2)
    first = drive(known, 2, 2 * TRIED_ROUNDS + SETTLED_ROUNDS, lambda lanes: float(lanes))
    assert set(first[2 * TRIED_ROUNDS :]) == {1}
    again = drive(known, 2, 3 * TRIED_ROUNDS, lambda lanes: 1 / lanes)
    assert again == [1] * TRIED_ROUNDS + [2] * 2 * TRIED_ROUNDS


@pytest.mark.parametrize(
    ("worse", "rarer"), [(1.05, [1, 2, 4, 8, 16, 32, 64, 64]), (2.0, [1, 8, 64, 64])]
)
def test_what_is_found_again_and_again_is_tried_more_rarely(worse: float, rarer: list[int]) -> None:
    """What was plainly worse much more rarely: whoever streams pays for the trial."""
    known = LaneCountTuner(2)
    kept = drive(known, 2, 4 * MOST_SETTLED_ROUNDS, lambda lanes: worse if lanes == 2 else 1.0)
    trials = [i for i, (a, b) in enumerate(pairwise(kept)) if (a, b) == (1, 2)]
    waits = [(b - a) // SETTLED_ROUNDS for a, b in pairwise([0, *trials])]
    assert waits[: len(rarer)] == rarer
    assert set(waits[len(rarer) :]) <= {64}
    drive(known, 2, MOST_SETTLED_ROUNDS, lambda lanes: 2.0 if lanes == 1 else 1.0)
    assert known.lanes(2) == 2


def test_what_has_changed_may_soon_change_back() -> None:
    known = LaneCountTuner(2)
    drive(known, 2, 20 * SETTLED_ROUNDS, lambda lanes: 1.05 if lanes == 2 else 1.0)
    kept = drive(known, 2, 30 * SETTLED_ROUNDS, lambda lanes: 1.05 if lanes == 1 else 1.0)
    changed = kept.index(2) + TRIED_ROUNDS
    assert kept[changed] == 2
    assert (kept.index(1, changed) - changed) // SETTLED_ROUNDS == 1


def test_a_trial_that_is_always_disturbed_is_given_up() -> None:
    """Else a busy cluster might stay with what nobody has compared."""
    known = LaneCountTuner(2)
    drive(known, 4, TRIED_ROUNDS, lambda _: 1.0)
    kept = drive(known, 4, 99 * TRIED_ROUNDS, lambda _: None)
    assert kept[: PATIENCE * TRIED_ROUNDS] == [1] * PATIENCE * TRIED_ROUNDS
    assert set(kept[PATIENCE * TRIED_ROUNDS :]) == {2}


@given(stages=st.integers(1, 9), rows=st.integers(0, 40), seconds=st.floats(0, 9))
def test_there_is_no_choice_where_no_lane_would_have_to_be_shared(
    stages: int, rows: int, seconds: float
) -> None:
    known = LaneCountTuner(stages)
    kept = drive(known, rows, 40, lambda _: seconds)
    fewest = stages if stages == 1 or rows < stages or not seconds else stages - 1
    assert min(kept) == fewest
    assert max(kept) == stages


def widths(stages: int, users: int, a_row_more: float) -> list[int]:
    """Rows of the steps of a pipeline whose stages serve one step at a time, each for 0.7 to
    1.3 seconds and so much more for every row after the first."""
    chance = random.Random(stages)

    def seconds(planned: PlannedStep) -> float:
        return chance.uniform(0.7, 1.3) + a_row_more * (len(planned.step.rows) - 1)

    pipeline = TimedPipeline(stages, seconds)
    for _ in range(users):
        pipeline.submit(3, 250)
    while pipeline.scheduler.active or pipeline.scheduler.waiting:
        pipeline.advance()
    assert [len(moments) for moments in pipeline.moments.values()] == [250] * users
    found = [len(step.rows) for step in pipeline.steps if step.lane is not None]
    return found[len(found) // 2 : -len(found) // 8]


@pytest.mark.parametrize(("stages", "users"), [(2, 2), (2, 4), (4, 6), (8, 8)])
def test_lanes_are_merged_where_a_row_more_costs_little(stages: int, users: int) -> None:
    """Steps that do not take equally long hold each other up when no stage is to spare."""
    fewer, as_many = -(-users // (stages - 1)), -(-users // stages)
    assert max(widths(stages, users, 0.0)) == fewer
    assert max(widths(stages, users, 1.0)) == as_many


@pytest.mark.parametrize("seed", range(6))
def test_lanes_even_out_after_users_left(seed: int) -> None:
    """The fullest lane and the emptiest are seldom at rest at once unless one waits for the
    other."""
    chance = random.Random(seed)
    pipeline = TimedPipeline(4, lambda _: chance.uniform(0.7, 1.3))
    lengths = [chance.choice((40, 400)) for _ in range(12)]
    for tokens in lengths:
        pipeline.submit(3, tokens)
    while pipeline.scheduler.active or pipeline.scheduler.waiting:
        pipeline.advance()
    found = [len(step.rows) for step in pipeline.steps if step.lane is not None]
    stayed = lengths.count(400)
    assert max(found[2 * len(found) // 5 : -len(found) // 10]) == -(-stayed // 3)


@pytest.mark.parametrize("seed", range(40))
def test_no_row_is_served_twice_before_another_once_while_lanes_change(seed: int) -> None:
    chance = random.Random(seed)
    stages = chance.choice((2, 3, 4, 6))
    pipeline = TimedPipeline(stages, lambda _: chance.uniform(0.7, 1.3))
    for _ in range(chance.randint(2, 3 * stages)):
        pipeline.submit(3, chance.choice((20, 60, 150)))
    while pipeline.scheduler.active or pipeline.scheduler.waiting:
        pipeline.advance()
    assert_nobody_is_passed(pipeline.steps)


def assert_nobody_is_passed(steps: Sequence[Step]) -> None:
    """Between two steps of a row, every other row has one at most."""
    meanwhile: dict[int, Counter[int]] = {}
    for step in steps:
        if step.lane is None:
            continue
        for row, others in meanwhile.items():
            if row not in step.rows:
                others.update(step.rows)
        for row in step.rows:
            assert max(meanwhile.get(row, Counter[int]()).values(), default=0) <= 1, step
            meanwhile[row] = Counter()


# The schedule's promises, while lanes are merged and parted all the time. -----------------


@settings(max_examples=150, deadline=None)
@given(
    stages=st.integers(2, 5),
    users=st.integers(1, 12),
    cache_tokens=st.sampled_from((120, 99_999)),
    order=st.lists(st.integers(0, 1000), min_size=100, max_size=600),
)
def test_nothing_is_lost_or_passed_or_held_up_while_lanes_are_merged_and_parted(
    stages: int, users: int, cache_tokens: int, order: list[int]
) -> None:
    emulated = [EmulatedStage(0.0, 1, is_tail=at == stages - 1) for at in range(stages)]
    limits = SchedulerLimits(stages=stages, context_length=999, cache_tokens=cache_tokens)
    cancelled: set[str] = set()
    with patch.multiple(lane_count, TRIED_ROUNDS=1, SETTLED_ROUNDS=1, MOST_SETTLED_ROUNDS=1):
        line = InProcessPipeline(emulated, limits)
        for user in range(users):
            greedy = Sampling(max_tokens=20 + user, temperature=0.0)
            line.submit(f"r{user}", range(100 * user, 100 * user + 9), greedy)
        for pick in order:
            moves = line.moves()
            moves[pick % len(moves)]()
            line.now += pick / 1e6
            if pick % 100 == 77:
                cancelled.add(f"r{pick // 100}")
                line.cancel(f"r{pick // 100}")
            assert line.scheduler.lanes <= stages
        line.run()
    for user, client in enumerate(line.clients.values()):
        assert client.request in cancelled or len(client.tokens) == 20 + user
    assert_nobody_is_passed(line.steps)
    first, *others = line.tables()
    assert all(table == first for table in others)
