"""The head's scheduler keeps its promises under any interleaving."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pomona.messages.cache_ops import Close, Join, Leave, Open
from pomona.messages.pipeline import Step
from pomona.messages.sampling import Sampling
from pomona_stage_worker.scheduler import SchedulerLimits, lane_count
from pomona_stage_worker.testing.emulated import EmulatedStage
from support.doubles.pipeline import InProcessPipeline

LIMITS = SchedulerLimits(
    stages=3, context_length=400, cache_tokens=600, max_waiting=8, max_running=12, least_prefix=4
)


def pipeline(limits: SchedulerLimits = LIMITS) -> InProcessPipeline:
    stages = [
        EmulatedStage(0.0, 1, is_tail=index == limits.stages - 1) for index in range(limits.stages)
    ]
    return InProcessPipeline(stages, limits)


def greedy(max_tokens: int) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=0.0)


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


@patch.multiple(lane_count, TRIED_ROUNDS=1, SETTLED_ROUNDS=1, MOST_SETTLED_ROUNDS=1)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=EVENTS, can_slice=st.booleans(), can_batch=st.booleans())
def test_every_request_ends_and_nothing_leaks_whatever_happens(
    events: list[tuple[Any, ...]], can_slice: bool, can_batch: bool
) -> None:
    limits = SchedulerLimits(
        stages=3,
        context_length=400,
        cache_tokens=600,
        can_slice=can_slice,
        can_batch=can_batch,
        max_waiting=8,
        max_running=12,
        least_prefix=4,
    )
    line = pipeline(limits)
    cancelled: set[str] = set()
    for event in events:
        if event[0] == "submit":
            _, length, most, salt, share = event
            request = f"r{len(line.clients)}"
            line.submit(request, [salt * 1000 + i for i in range(length)], greedy(most), share)
        elif event[0] == "cancel":
            request = f"r{event[1]}"
            if request in line.clients:
                cancelled.add(request)
                line.cancel(request)
        elif event[0] == "limit":
            line.scheduler.limit_caches(event[1])
        else:
            moves = line.moves()
            moves[event[1] % len(moves)]()
            line.now += event[1] / 1e6
        assert line.scheduler.reserved_tokens <= limits.cache_tokens
        assert line.scheduler.in_flight <= limits.stages + 1
        if can_batch:
            assert line.scheduler.lanes <= limits.stages
    line.run()

    for request, client in line.clients.items():
        ended = client.finish is not None or client.rejected is not None
        assert ended or request in cancelled, f"{request} was forgotten"
    assert line.scheduler.active == line.scheduler.waiting == line.scheduler.in_flight == 0
    first, *others = line.tables()
    assert all(table == first for table in others)
    assert isinstance(first, dict)
    assert first["sequences"] == {}
    assert first["lanes"] == {}
    assert len(first["prefixes"]) == len(line.scheduler.prefixes)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=2, max_size=10),
    order=st.lists(st.integers(0, 1000), max_size=400),
)
def test_tokens_of_a_sequence_come_in_order_and_none_is_missing(
    lengths: list[int], order: list[int]
) -> None:
    line = pipeline()
    for number, length in enumerate(lengths):
        line.submit(f"r{number}", range(1 + number, 1 + number + length), greedy(12))
    for pick in order:
        moves = line.moves()
        moves[pick % len(moves)]()
    line.run()
    for number in range(len(lengths)):
        client = line.clients[f"r{number}"]
        assert client.rejected is not None or len(client.tokens) == 12


def test_one_user_means_one_lane_and_a_step_for_every_token() -> None:
    line = pipeline()
    line.submit("a", range(10), greedy(5))
    line.run()
    decode = [step for step in line.steps if step.lane is not None]
    assert len({step.lane for step in decode}) == 1
    assert len(decode) == 4
    assert all(len(step.rows) == 1 for step in decode)


def test_as_many_users_as_stages_get_a_lane_each() -> None:
    line = pipeline()
    for number in range(3):
        line.submit(f"r{number}", range(10 * number, 10 * number + 10), greedy(30))
    line.run()
    assert max_lanes(line.steps) == 3


def test_more_users_share_lanes_evenly() -> None:
    line = pipeline(SchedulerLimits(stages=3, context_length=400, cache_tokens=10_000))
    for number in range(9):
        line.submit(f"r{number}", range(10 * number, 10 * number + 10), greedy(40))
    line.run()
    assert max_lanes(line.steps) == 3
    widest = [step for step in line.steps if step.lane is not None and len(step.rows) == 3]
    assert len({step.lane for step in widest}) == 3
    assert max(len(step.rows) for step in line.steps) == 3


def test_lanes_are_balanced_when_users_leave() -> None:
    line = pipeline(SchedulerLimits(stages=2, context_length=1000, cache_tokens=10_000))
    for number, most in enumerate([3, 60, 3, 60, 3, 60]):
        line.submit(f"r{number}", range(10 * number, 10 * number + 10), greedy(most))
    line.run()
    late = [step for step in line.steps if step.lane is not None][-30:-10]
    assert {len(step.rows) for step in late} <= {1, 2}
    assert all(a.lane != b.lane for a, b in pairwise(late))


def test_a_cancelled_request_leaves_every_stage_with_the_next_step() -> None:
    line = pipeline()
    line.submit("a", range(20), greedy(100))
    line.submit("b", range(50, 70), greedy(100))
    for _ in range(40):
        for move in line.moves():
            move()
    line.cancel("a")
    line.moves()[0]()
    ops = line.steps[-1].ops
    assert any(isinstance(op, Leave) for op in ops)
    assert any(isinstance(op, Close) for op in ops)


def test_a_long_prompt_does_not_stop_running_streams() -> None:
    limits = SchedulerLimits(stages=2, context_length=5000, cache_tokens=20_000)
    line = pipeline(limits)
    line.submit("stream", range(10), greedy(400))
    for _ in range(60):
        for move in line.moves():
            move()
    begun = len(line.steps)
    line.submit("long", range(3000), greedy(1))
    line.run()
    during = line.steps[begun:]
    last_chunk = max(i for i, step in enumerate(during) if step.lane is None and step.rows)
    between = during[:last_chunk]
    chunks = sum(1 for step in between if step.lane is None and step.rows)
    decodes = sum(1 for step in between if step.lane is not None)
    assert decodes >= chunks - 2


def test_prompts_are_read_in_turns() -> None:
    limits = SchedulerLimits(stages=2, context_length=5000, cache_tokens=20_000)
    line = pipeline(limits)
    line.submit("a", range(2000), greedy(1))
    line.submit("b", range(5000, 7000), greedy(1))
    line.run()
    chunks = [step.rows[0] for step in line.steps if step.lane is None and step.rows]
    switches = sum(1 for x, y in pairwise(chunks) if x != y)
    assert switches >= len(chunks) - 3


def test_no_request_is_served_twice_before_another_of_its_kind_once() -> None:
    limits = SchedulerLimits(stages=2, context_length=500, cache_tokens=20_000, max_running=2)
    line = pipeline(limits)
    for number in range(8):
        line.submit(f"r{number}", range(10 * number, 10 * number + 10), greedy(5))
    line.run()
    opened = [op.request for step in line.steps for op in step.ops if isinstance(op, Open)]
    assert opened == [f"r{number}" for number in range(8)]


def test_a_second_turn_computes_only_what_is_new() -> None:
    line = pipeline()
    first = line.submit("a", range(100), greedy(20))
    line.run()
    history = [*range(100), *first.tokens]
    second = line.submit("b", [*history, 1, 2, 3], greedy(5))
    line.run()
    assert second.cached == len(history) - 1


def test_prefixes_are_not_shared_across_shares() -> None:
    line = pipeline()
    line.submit("a", range(100), greedy(2), share="alice")
    line.run()
    other = line.submit("b", range(100), greedy(2), share="bob")
    line.run()
    same = line.submit("c", range(100), greedy(2), share="alice")
    line.run()
    assert (other.cached, same.cached) == (0, 99)


def test_a_shared_system_prompt_is_stored_once() -> None:
    line = pipeline(
        SchedulerLimits(stages=3, context_length=400, cache_tokens=5000, least_prefix=4)
    )
    system = range(200)
    for user in range(5):
        line.submit(f"u{user}", [*system, *range(1000 * user + 500, 1000 * user + 510)], greedy(3))
        line.run()
    assert line.scheduler.prefixes.stored_tokens < 200 + 5 * 20


def test_without_slicing_only_whole_prefixes_are_used() -> None:
    limits = SchedulerLimits(
        stages=2, context_length=400, cache_tokens=5000, can_slice=False, least_prefix=4
    )
    line = pipeline(limits)
    first = line.submit("a", range(100), greedy(4))
    line.run()
    other = line.submit("b", [*range(90), 7777], greedy(4))
    line.run()
    again = line.submit("c", [*range(100), *first.tokens, 5], greedy(4))
    line.run()
    assert (other.cached, again.cached) == (0, 103)


def test_the_queue_is_bounded() -> None:
    line = pipeline()
    for number in range(40):
        line.submit(f"r{number}", range(200), greedy(300))
    refused = [client.rejected for client in line.clients.values() if client.rejected]
    assert refused
    assert all(x.status == 429 and x.retry_after_s for x in refused)


def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    line = pipeline(SchedulerLimits(stages=2, context_length=4000, cache_tokens=300))
    client = line.submit("a", range(301), greedy(1))
    assert client.rejected is not None
    assert client.rejected.status == 400
    assert "301" in client.rejected.message
    assert "300" in client.rejected.message


def test_waiting_has_an_end() -> None:
    line = pipeline(
        SchedulerLimits(stages=2, context_length=400, cache_tokens=10_000, max_running=1)
    )
    line.submit("a", range(10), greedy(300))
    late = line.submit("b", range(10), greedy(5), deadline_s=3.0)
    for _ in range(10):
        for move in line.moves():
            move()
    line.now = 3.5
    line.run()
    assert late.rejected is not None
    assert late.rejected.status == 503


def test_who_waits_hears_its_place_at_most_once_a_second() -> None:
    line = pipeline(
        SchedulerLimits(stages=2, context_length=400, cache_tokens=10_000, max_running=1)
    )
    line.submit("a", range(10), greedy(300))
    line.moves()[0]()
    first = line.submit("b", range(10), greedy(5))
    second = line.submit("c", range(10), greedy(5))
    for _ in range(50):
        for move in line.moves():
            move()
    assert (first.positions, second.positions) == ([1], [2])
    urgent = line.submit("d", range(10), greedy(5), priority=0)
    urgent_too = line.submit("e", range(10), greedy(5), priority=1)
    line.cancel("b")
    line.now = 1.0
    for move in line.moves():
        move()
    assert (first.positions, second.positions) == ([1], [2, 1])
    assert (urgent.positions, urgent_too.positions) == ([2], [3])
    line.run()
    assert line.clients["a"].positions == []
    assert all(len(line.clients[x].tokens) == 5 for x in "cde")


def begun(line: InProcessPipeline) -> list[str]:
    """Requests in the order in which their prompts were begun, after the running one."""
    line.run()
    opened = [op.request for step in line.steps for op in step.ops if isinstance(op, Open)]
    assert opened[0] == "running"
    return opened[1:]


def busy_line(max_waiting: int = 256) -> InProcessPipeline:
    """A pipeline of one request at a time, which has one."""
    line = pipeline(
        SchedulerLimits(
            2, context_length=400, cache_tokens=10_000, max_running=1, max_waiting=max_waiting
        )
    )
    line.submit("running", range(10), greedy(2), "running")
    line.moves()[0]()
    return line


def test_prompts_are_begun_by_priority_and_within_it_in_the_order_of_arrival() -> None:
    line = busy_line()
    for name, priority in (("c", 1), ("d", 1), ("a", 0), ("e", 9), ("b", 0)):
        line.submit(name, range(10), greedy(2), priority=priority)
    assert begun(line) == ["a", "b", "c", "d", "e"]


def test_what_is_not_urgent_waits_behind_later_requests_for_a_while_but_not_for_ever() -> None:
    line = busy_line()
    line.submit("title", range(10), greedy(2), priority=1)
    for name, moment in (("soon", 1.0), ("later", 24.0), ("too late", 26.0)):
        line.now = moment
        line.submit(name, range(10), greedy(2))
    assert begun(line) == ["soon", "later", "title", "too late"]


def test_a_key_with_many_old_requests_takes_turns_with_others() -> None:
    line = busy_line()
    for number in range(6):
        line.submit(f"many{number}", range(10), greedy(2), "many")
    line.now = 50.0
    for number in range(2):
        line.submit(f"other{number}", range(10), greedy(2), "other")
    line.submit("third", range(10), greedy(2), "third")
    heard = {name: client.positions for name, client in line.clients.items()}
    order = begun(line)
    assert order == [
        "many0", "other0", "third", "many1", "other1", "many2", "many3", "many4", "many5",
    ]  # fmt: skip
    assert [heard[name][0] for name in order] == list(range(1, 10))


def test_what_a_key_has_begun_before_counts_and_what_is_urgent_goes_first() -> None:
    line = pipeline(
        SchedulerLimits(stages=2, context_length=400, cache_tokens=10_000, max_running=3)
    )
    for number in range(6):
        line.submit(f"many{number}", range(10), greedy(20), "many")
    for _ in range(30):
        for move in line.moves():
            move()
    line.submit("title", range(10), greedy(2), "other", priority=1)
    line.submit("chat", range(10), greedy(2), "third")
    line.run()
    opened = [op.request for step in line.steps for op in step.ops if isinstance(op, Open)]
    assert opened == ["many0", "many1", "many2", "chat", "many3", "many4", "many5", "title"]


def test_of_a_full_queue_the_last_in_line_goes_whoever_came_last() -> None:
    line = busy_line(max_waiting=3)
    titles = [line.submit(f"t{n}", range(10), greedy(2), "many", priority=1) for n in range(4)]
    assert [x.rejected is None for x in titles] == [True, True, True, False]
    assert titles[3].rejected is not None
    assert (titles[3].rejected.status, titles[3].rejected.code) == (429, "queue_full")
    assert titles[3].rejected.retry_after_s
    chat = line.submit("chat", range(10), greedy(2), "many")
    other = line.submit("other", range(10), greedy(2), "other", priority=1)
    line.run()
    assert [x.rejected is None for x in titles] == [True, False, False, False]
    assert all(len(x.tokens) == 2 for x in (titles[0], chat, other))


def test_a_reply_that_was_begun_is_not_given_up_for_a_full_queue() -> None:
    limits = SchedulerLimits(2, context_length=400, cache_tokens=130, least_prefix=4, max_waiting=1)
    line = pipeline(limits)
    replies = [line.submit("r0", range(30), greedy(60))]
    line.moves()[0]()
    replies.append(line.submit("r1", range(1000, 1030), greedy(60)))
    for _ in range(1000):
        for move in line.moves():
            move()
        if line.scheduler.waiting and all(x.tokens for x in replies):
            break
    assert line.scheduler.waiting == 1
    late = line.submit("late", range(5), greedy(2))
    assert late.rejected is not None
    line.run()
    assert all(len(x.tokens) == 60 for x in replies)


def test_a_share_fills_its_part_of_the_queue_and_others_still_get_in() -> None:
    line = pipeline(
        SchedulerLimits(
            stages=2, context_length=400, cache_tokens=10_000, max_running=1, max_waiting=8
        )
    )
    line.submit("running", range(10), greedy(2))
    line.moves()[0]()
    many = [line.submit(f"m{n}", range(10), greedy(2), "many", queue_share=0.25) for n in range(4)]
    assert [x.rejected is None for x in many] == [True, True, False, False]
    assert many[2].rejected is not None
    assert (many[2].rejected.status, many[2].rejected.code) == (429, "queue_share_full")
    assert many[2].rejected.retry_after_s
    other = line.submit("other", range(10), greedy(2), "other", queue_share=0.25)
    line.run()
    assert all(len(x.tokens) == 2 for x in (*many[:2], other))


def test_memory_pressure_preempts_the_youngest_and_every_reply_is_whole() -> None:
    limits = SchedulerLimits(stages=2, context_length=400, cache_tokens=300, least_prefix=4)
    line = pipeline(limits)
    for number in range(5):
        line.submit(f"r{number}", range(1000 * number, 1000 * number + 40), greedy(100))
    line.run()
    assert all(len(client.tokens) == 100 for client in line.clients.values())
    opened = [op for step in line.steps for op in step.ops if isinstance(op, Open)]
    assert line.scheduler.preemptions == len(opened) - 5 > 0


def test_caches_make_room_for_another_model_and_every_reply_is_whole() -> None:
    line = pipeline(
        SchedulerLimits(stages=2, context_length=400, cache_tokens=1000, least_prefix=4)
    )
    line.submit("kept", range(200), greedy(10))
    line.run()
    assert line.scheduler.prefixes.stored_tokens > 150
    for number in range(4):
        line.submit(f"r{number}", range(1000 * number, 1000 * number + 40), greedy(100))
    line.scheduler.limit_caches(150)
    assert line.scheduler.prefixes.stored_tokens == 0
    line.run()
    assert all(len(client.tokens) in (10, 100) for client in line.clients.values())
    assert line.scheduler.reserved_tokens <= 150
    longer = line.submit("longer", range(160), greedy(10))
    assert longer.rejected is not None


def test_a_request_that_was_accepted_keeps_its_room_when_caches_become_smaller() -> None:
    line = pipeline(
        SchedulerLimits(stages=2, context_length=400, cache_tokens=1000, least_prefix=4)
    )
    clients = [line.submit(name, range(200), greedy(100), name) for name in "abc"]
    line.scheduler.limit_caches(150)
    line.run()
    assert [len(client.tokens) for client in clients] == [100, 100, 100]


@pytest.mark.parametrize("stages", [1, 2, 8])
def test_an_idle_scheduler_has_nothing_to_do(stages: int) -> None:
    assert pipeline(SchedulerLimits(stages, 100, 100)).scheduler.next_step(0.0) is None


def max_lanes(steps: list[Step]) -> int:
    """Most lanes that existed at once."""
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
