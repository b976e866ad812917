"""Guesses fill idle stages, and users and prompts go first."""

from __future__ import annotations

from typing import Any

import pytest

from pomona.messages.cache_ops import Close, Rollback
from pomona.messages.pipeline import Step
from pomona.messages.sampling import Sampling
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.testing.emulated import made_up_token
from support.doubles.pipeline import InProcessPipeline, emulated_pipeline, greedy

STAGES = 4


def pipeline_with(acceptance: float | None, **limits: Any) -> InProcessPipeline:
    allowed: dict[str, Any] = {
        "stages": STAGES,
        "context_length": 2000,
        "cache_tokens": 20_000,
        "speculation": True,
        "min_prefix": 4,
        **limits,
    }
    return emulated_pipeline(SchedulerLimits(**allowed), acceptance)


def reply_of(seq: int, length: int) -> list[int]:
    return [made_up_token(seq, index) for index in range(length)]


def guessed(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step.guess is not None]


def test_a_lone_stream_has_as_many_steps_in_flight_as_stages() -> None:
    pipeline = pipeline_with(1.0)
    client = pipeline.submit("a", range(10), greedy(200))
    deepest = 0
    while client.finish is None:
        pipeline.run_rounds(1)
        deepest = max(deepest, pipeline.scheduler.in_flight)
    assert deepest == STAGES
    assert client.tokens == reply_of(1, 200)
    assert client.right_guesses > 180
    assert client.wrong_guesses == 0


def test_a_wrong_guess_is_rolled_back_with_the_next_step_of_its_lane() -> None:
    pipeline = pipeline_with(0.6)
    client = pipeline.submit("a", range(10), greedy(100))
    pipeline.run()
    assert client.tokens == reply_of(1, 100)
    rollbacks = [step for step in pipeline.steps if any(type(op) is Rollback for op in step.ops)]
    assert rollbacks
    for step in rollbacks:
        last = [op for op in step.ops if isinstance(op, Rollback)][-1]
        assert step.guess is None or step.guess.position == last.length
        assert step.rows or any(isinstance(op, Close) for op in step.ops)


@pytest.mark.parametrize("users", [4, 6, 9])
def test_nothing_is_guessed_while_as_many_lanes_as_stages_run(users: int) -> None:
    pipeline = pipeline_with(0.9)
    clients = [
        pipeline.submit(f"r{n}", range(50 * n, 50 * n + 10), greedy(400)) for n in range(users)
    ]
    pipeline.run_rounds(80)
    begun = len(pipeline.steps)
    pipeline.run_rounds(200)
    assert not guessed(pipeline.steps[begun:])
    assert all(len(client.tokens) > 30 for client in clients)


def test_nothing_is_guessed_during_a_prefill() -> None:
    pipeline = pipeline_with(0.9)
    pipeline.submit("a", range(10), greedy(400))
    pipeline.run_rounds(60)
    pipeline.submit("b", range(1500), greedy(1))
    begun = len(pipeline.steps)
    while pipeline.clients["b"].finish is None:
        pipeline.run_rounds(1)
    chunks = [n for n, step in enumerate(pipeline.steps) if step.lane is None and step.rows]
    assert not guessed(pipeline.steps[begun + STAGES : chunks[-1]])


def test_a_request_that_does_not_want_guesses_gets_none() -> None:
    pipeline = pipeline_with(1.0)
    client = pipeline.submit("a", range(10), greedy(40), speculative=False)
    pipeline.run()
    assert not guessed(pipeline.steps)
    assert client.tokens == reply_of(1, 40)


def test_nothing_is_guessed_when_the_setting_is_off_or_caches_cannot_be_rolled_back() -> None:
    for limits in ({"speculation": False}, {"can_roll_back": False}):
        pipeline = pipeline_with(1.0, **limits)
        pipeline.submit("a", range(10), greedy(40))
        pipeline.run()
        assert not guessed(pipeline.steps)


def test_guesses_that_are_never_right_end_soon() -> None:
    pipeline = pipeline_with(0.0)
    client = pipeline.submit("a", range(10), greedy(400))
    pipeline.run()
    assert client.tokens == reply_of(1, 400)
    assert 0 < len(guessed(pipeline.steps)) < 150
    assert not guessed(pipeline.steps[-200:])


def test_nothing_is_guessed_past_the_last_token_or_after_a_stop_id() -> None:
    pipeline = pipeline_with(1.0)
    pipeline.submit("a", range(10), greedy(20))
    pipeline.run()
    last = max(step.guess.position for step in guessed(pipeline.steps) if step.guess)
    assert last <= 10 + 20 - 2
    stop = made_up_token(2, 8)
    sampling = Sampling(max_tokens=100, temperature=0.0, stop_ids=(stop,))
    begun = len(pipeline.steps)
    client = pipeline.submit("b", range(100, 110), sampling)
    pipeline.run()
    assert client.finish == "stop"
    assert client.tokens == reply_of(2, 9)
    positions = [step.guess.position for step in guessed(pipeline.steps[begun:]) if step.guess]
    assert max(positions) < 10 + 8


def test_a_kept_prefix_holds_confirmed_tokens_only() -> None:
    pipeline = pipeline_with(0.7)
    pipeline.submit("a", range(10), greedy(300))
    pipeline.run_rounds(120)
    pipeline.cancel("a")
    pipeline.run()
    (prefix,) = pipeline.scheduler.prefixes.texts("")
    reply = prefix.tolist()[10:]
    assert reply == reply_of(1, len(reply))
    tables = pipeline.tables()
    assert all(table == tables[0] for table in tables)


def test_a_lone_stage_carries_several_guesses_a_step() -> None:
    pipeline = pipeline_with(1.0, stages=1, max_width=4)
    client = pipeline.submit("a", range(10), greedy(200))
    pipeline.run()
    assert client.tokens == reply_of(1, 200)
    assert len(pipeline.steps) < 80


def test_guesses_never_preempt_a_stream() -> None:
    pipeline = pipeline_with(1.0, cache_tokens=100)
    client = pipeline.submit("a", range(40), greedy(59))
    pipeline.run()
    assert client.tokens == reply_of(1, 59)
    assert pipeline.scheduler.preemptions == 0
    assert pipeline.scheduler.reserved_tokens <= 100


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"speculation": False}, "POMONA_STAGE_WORKER_SPECULATION"),
        ({"can_roll_back": False}, "cannot be restored"),
        ({"stages": 1}, "lone stage"),
    ],
)
def test_the_status_says_why_nothing_is_guessed(limits: dict[str, Any], reason: str) -> None:
    status = pipeline_with(0.9, **limits).scheduler.speculator.status()
    assert reason in status.off
    assert not status.unused


def test_the_status_counts_guesses_by_source() -> None:
    pipeline = pipeline_with(0.8)
    client = pipeline.submit("a", range(10), greedy(200))
    pipeline.run()
    status = pipeline.scheduler.speculator.status()
    assert status.off == ""
    assert status.drafted >= status.accepted > 100
    assert status.sources == {"forced": status.accepted}
    assert status.tokens_per_round > 2
    assert status.unused == {}
    assert client.right_guesses == status.accepted
