"""Lanes are filled evenly, and rows take turns while they move between lanes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.messages.cache_ops import Join, Leave
from pomona.messages.pipeline import Step
from pomona_stage_worker.scheduler import SchedulerLimits, lane_count
from support.doubles.pipeline import emulated_pipeline, greedy
from support.doubles.timed_pipeline import TimedPipeline


def max_lanes(steps: list[Step]) -> int:
    """Returns the most lanes that existed at once."""
    rows: dict[int, set[int]] = {}
    most = 0
    for step in steps:
        for op in step.ops:
            if isinstance(op, Join):
                rows.setdefault(op.lane, set()).update(op.seqs)
            elif isinstance(op, Leave):
                rows[op.lane] -= set(op.seqs)
                if not rows[op.lane]:
                    del rows[op.lane]
        most = max(most, len(rows))
    return most


def assert_rows_take_turns(steps: Sequence[Step]) -> None:
    """Checks that every other row has at most one step between two steps of a row."""
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


def test_each_request_has_its_own_lane_up_to_the_number_of_stages() -> None:
    pipeline = emulated_pipeline(SchedulerLimits(3, context_length=400, cache_tokens=600))
    for number in range(3):
        pipeline.submit(f"r{number}", range(10 * number, 10 * number + 10), greedy(30))
    pipeline.run()
    assert max_lanes(pipeline.steps) == 3


def test_more_requests_than_stages_share_lanes_evenly() -> None:
    pipeline = emulated_pipeline(SchedulerLimits(stages=3, context_length=400, cache_tokens=10_000))
    for number in range(9):
        pipeline.submit(f"r{number}", range(10 * number, 10 * number + 10), greedy(40))
    pipeline.run()
    assert max_lanes(pipeline.steps) == 3
    widest = [step for step in pipeline.steps if step.lane is not None and len(step.rows) == 3]
    assert len({step.lane for step in widest}) == 3
    assert max(len(step.rows) for step in pipeline.steps) == 3


def test_lanes_are_balanced_when_requests_end() -> None:
    pipeline = emulated_pipeline(
        SchedulerLimits(stages=2, context_length=1000, cache_tokens=10_000)
    )
    for number, most in enumerate([3, 60, 3, 60, 3, 60]):
        pipeline.submit(f"r{number}", range(10 * number, 10 * number + 10), greedy(most))
    pipeline.run()
    late = [step for step in pipeline.steps if step.lane is not None][-30:-10]
    assert {len(step.rows) for step in late} <= {1, 2}
    assert all(a.lane != b.lane for a, b in pairwise(late))


@pytest.mark.parametrize("seed", range(6))
def test_lanes_even_out_after_requests_ended(seed: int) -> None:
    """The fullest and the emptiest lane are seldom idle at the same time."""
    chance = random.Random(seed)
    pipeline = TimedPipeline(4, lambda _: chance.uniform(0.7, 1.3))
    lengths = [chance.choice((40, 400)) for _ in range(12)]
    for tokens in lengths:
        pipeline.submit(3, tokens)
    pipeline.run()
    found = [len(step.rows) for step in pipeline.steps if step.lane is not None]
    stayed = lengths.count(400)
    assert max(found[2 * len(found) // 5 : -len(found) // 10]) == -(-stayed // 3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_no_row_is_decoded_twice_before_another_once_while_lanes_change(seed: int) -> None:
    chance = random.Random(seed)
    stages = chance.choice((2, 3, 4, 6))
    pipeline = TimedPipeline(stages, lambda _: chance.uniform(0.7, 1.3))
    for _ in range(chance.randint(2, 3 * stages)):
        pipeline.submit(3, chance.choice((20, 60, 150)))
    pipeline.run()
    assert_rows_take_turns(pipeline.steps)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    stages=st.integers(2, 5),
    users=st.integers(1, 12),
    cache_tokens=st.sampled_from((120, 99_999)),
    order=st.lists(st.integers(0, 1000), min_size=100, max_size=600),
)
def test_rows_take_turns_and_replies_are_complete_while_lanes_merge_and_split(
    stages: int, users: int, cache_tokens: int, order: list[int]
) -> None:
    limits = SchedulerLimits(stages=stages, context_length=999, cache_tokens=cache_tokens)
    cancelled: set[str] = set()
    with patch.multiple(lane_count, TRIAL_ROUNDS=1, RETRIAL_ROUNDS=1, MAX_RETRIAL_ROUNDS=1):
        pipeline = emulated_pipeline(limits)
        for user in range(users):
            prompt = range(100 * user, 100 * user + 9)
            pipeline.submit(f"r{user}", prompt, greedy(20 + user))
        for pick in order:
            moves = pipeline.moves()
            moves[pick % len(moves)]()
            pipeline.now += pick / 1e6
            if pick % 100 == 77:
                cancelled.add(f"r{pick // 100}")
                pipeline.cancel(f"r{pick // 100}")
            assert pipeline.scheduler.lanes <= stages
        pipeline.run()
    for user, client in enumerate(pipeline.clients.values()):
        assert client.request in cancelled or len(client.tokens) == 20 + user
    assert_rows_take_turns(pipeline.steps)
    first, *others = pipeline.tables()
    assert all(table == first for table in others)
