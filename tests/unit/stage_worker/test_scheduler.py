"""The head's scheduler keeps its promises under any interleaving of events."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pomona.messages.cache_ops import Close, Leave, Open
from pomona_stage_worker.scheduler import SchedulerLimits, lane_count
from support.doubles.pipeline import emulated_pipeline, greedy

LIMITS = SchedulerLimits(
    stages=3, context_length=400, cache_tokens=600, max_waiting=8, max_running=12, min_prefix=4
)

EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.integers(1, 150),
            st.integers(1, 40),
            st.integers(0, 3),
            st.sampled_from(["", "a"]),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("move"), st.integers(0, 1000)),
        st.tuples(st.just("limit"), st.integers(100, 600)),
    ),
    max_size=120,
)


@pytest.mark.slow
@patch.multiple(lane_count, TRIAL_ROUNDS=1, RETRIAL_ROUNDS=1, MAX_RETRIAL_ROUNDS=1)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    events=EVENTS,
    can_slice=st.booleans(),
    can_batch=st.booleans(),
    acceptance=st.sampled_from([None, 0.3, 0.9]),
    max_width=st.sampled_from([1, 4]),
)
def test_every_request_ends_and_nothing_leaks(
    events: list[tuple[Any, ...]],
    can_slice: bool,
    can_batch: bool,
    acceptance: float | None,
    max_width: int,
) -> None:
    limits = SchedulerLimits(
        stages=3,
        context_length=400,
        cache_tokens=600,
        can_slice=can_slice,
        can_batch=can_batch,
        max_waiting=8,
        max_running=12,
        min_prefix=4,
        speculation=acceptance is not None,
        max_width=max_width,
    )
    pipeline = emulated_pipeline(limits, acceptance)
    cancelled: set[str] = set()
    for event in events:
        if event[0] == "submit":
            _, length, most, salt, tenant = event
            request = f"r{len(pipeline.clients)}"
            pipeline.submit(request, [salt * 1000 + i for i in range(length)], greedy(most), tenant)
        elif event[0] == "cancel":
            request = f"r{event[1]}"
            if request in pipeline.clients:
                cancelled.add(request)
                pipeline.cancel(request)
        elif event[0] == "limit":
            pipeline.scheduler.limit_caches(event[1])
        else:
            moves = pipeline.moves()
            moves[event[1] % len(moves)]()
            pipeline.now += event[1] / 1e6
        assert pipeline.scheduler.reserved_tokens <= limits.cache_tokens
        assert pipeline.scheduler.in_flight <= limits.stages + 1
        assert (pipeline.scheduler.tokens_in_flight > 0) == (pipeline.scheduler.in_flight > 0)
        if can_batch:
            assert pipeline.scheduler.lanes <= limits.stages
    pipeline.run()

    for request, client in pipeline.clients.items():
        ended = client.finish is not None or client.rejected is not None
        assert ended or request in cancelled, f"{request} never ended"
    assert (
        pipeline.scheduler.active == pipeline.scheduler.waiting == pipeline.scheduler.in_flight == 0
    )
    first, *others = pipeline.tables()
    assert all(table == first for table in others)
    assert isinstance(first, dict)
    assert first["sequences"] == {}
    assert first["lanes"] == {}
    assert len(first["prefixes"]) == len(pipeline.scheduler.prefixes)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=2, max_size=10),
    order=st.lists(st.integers(0, 1000), max_size=400),
)
def test_replies_are_complete_under_any_interleaving(lengths: list[int], order: list[int]) -> None:
    pipeline = emulated_pipeline(LIMITS)
    for number, length in enumerate(lengths):
        pipeline.submit(f"r{number}", range(1 + number, 1 + number + length), greedy(12))
    for pick in order:
        moves = pipeline.moves()
        moves[pick % len(moves)]()
    pipeline.run()
    for number in range(len(lengths)):
        client = pipeline.clients[f"r{number}"]
        assert client.rejected is not None or len(client.tokens) == 12


def test_single_request_has_one_lane_and_one_step_per_token() -> None:
    pipeline = emulated_pipeline(LIMITS)
    pipeline.submit("a", range(10), greedy(5))
    pipeline.run()
    decode = [step for step in pipeline.steps if step.lane is not None]
    assert len({step.lane for step in decode}) == 1
    assert len(decode) == 4
    assert all(len(step.rows) == 1 for step in decode)


def test_cancelled_request_is_freed_with_the_next_step() -> None:
    pipeline = emulated_pipeline(LIMITS)
    pipeline.submit("a", range(20), greedy(100))
    pipeline.submit("b", range(50, 70), greedy(100))
    pipeline.run_rounds(40)
    pipeline.cancel("a")
    pipeline.moves()[0]()
    ops = pipeline.steps[-1].ops
    assert any(isinstance(op, Leave) for op in ops)
    assert any(isinstance(op, Close) for op in ops)


def test_long_prefill_alternates_with_decode_steps() -> None:
    limits = SchedulerLimits(stages=2, context_length=5000, cache_tokens=20_000)
    pipeline = emulated_pipeline(limits)
    pipeline.submit("stream", range(10), greedy(400))
    pipeline.run_rounds(60)
    begun = len(pipeline.steps)
    pipeline.submit("long", range(3000), greedy(1))
    pipeline.run()
    during = pipeline.steps[begun:]
    last_chunk = max(i for i, step in enumerate(during) if step.lane is None and step.rows)
    between = during[:last_chunk]
    chunks = sum(1 for step in between if step.lane is None and step.rows)
    decodes = sum(1 for step in between if step.lane is not None)
    assert decodes >= chunks - 2


def test_prompts_are_prefilled_in_turns() -> None:
    limits = SchedulerLimits(stages=2, context_length=5000, cache_tokens=20_000)
    pipeline = emulated_pipeline(limits)
    pipeline.submit("a", range(2000), greedy(1))
    pipeline.submit("b", range(5000, 7000), greedy(1))
    pipeline.run()
    chunks = [step.rows[0] for step in pipeline.steps if step.lane is None and step.rows]
    switches = sum(1 for x, y in pairwise(chunks) if x != y)
    assert switches >= len(chunks) - 3


def test_requests_start_in_order_of_arrival() -> None:
    limits = SchedulerLimits(stages=2, context_length=500, cache_tokens=20_000, max_running=2)
    pipeline = emulated_pipeline(limits)
    for number in range(8):
        pipeline.submit(f"r{number}", range(10 * number, 10 * number + 10), greedy(5))
    pipeline.run()
    opened = [op.request for step in pipeline.steps for op in step.ops if isinstance(op, Open)]
    assert opened == [f"r{number}" for number in range(8)]


def test_prompt_that_can_never_fit_is_rejected_with_the_numbers() -> None:
    pipeline = emulated_pipeline(SchedulerLimits(stages=2, context_length=4000, cache_tokens=300))
    client = pipeline.submit("a", range(301), greedy(1))
    assert client.rejected is not None
    assert client.rejected.status == 400
    assert "301" in client.rejected.message
    assert "300" in client.rejected.message


@pytest.mark.parametrize("stages", [1, 2, 8])
def test_idle_scheduler_returns_no_instructions(stages: int) -> None:
    pipeline = emulated_pipeline(SchedulerLimits(stages, 100, 100))
    assert pipeline.scheduler.schedule(0.0) == []
