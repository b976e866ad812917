"""Prefixes are reused within a tenant and share their storage."""

from __future__ import annotations

from pomona_stage_worker.scheduler import SchedulerLimits
from support.doubles.pipeline import emulated_pipeline, greedy

LIMITS = SchedulerLimits(
    stages=3, context_length=400, cache_tokens=600, max_waiting=8, max_running=12, min_prefix=4
)


def test_second_turn_prefills_only_new_tokens() -> None:
    pipeline = emulated_pipeline(LIMITS)
    first = pipeline.submit("a", range(100), greedy(20))
    pipeline.run()
    history = [*range(100), *first.tokens]
    second = pipeline.submit("b", [*history, 1, 2, 3], greedy(5))
    pipeline.run()
    assert second.cached == len(history) - 1


def test_tenants_do_not_share_prefixes() -> None:
    pipeline = emulated_pipeline(LIMITS)
    pipeline.submit("a", range(100), greedy(2), tenant="alice")
    pipeline.run()
    other = pipeline.submit("b", range(100), greedy(2), tenant="bob")
    pipeline.run()
    same = pipeline.submit("c", range(100), greedy(2), tenant="alice")
    pipeline.run()
    assert (other.cached, same.cached) == (0, 99)


def test_a_shared_system_prompt_is_stored_once() -> None:
    pipeline = emulated_pipeline(
        SchedulerLimits(stages=3, context_length=400, cache_tokens=5000, min_prefix=4)
    )
    system = range(200)
    for user in range(5):
        pipeline.submit(
            f"u{user}", [*system, *range(1000 * user + 500, 1000 * user + 510)], greedy(3)
        )
        pipeline.run()
    assert pipeline.scheduler.prefixes.stored_tokens < 200 + 5 * 20


def test_only_whole_prefixes_are_reused_without_slicing() -> None:
    limits = SchedulerLimits(
        stages=2, context_length=400, cache_tokens=5000, can_slice=False, min_prefix=4
    )
    pipeline = emulated_pipeline(limits)
    first = pipeline.submit("a", range(100), greedy(4))
    pipeline.run()
    other = pipeline.submit("b", [*range(90), 7777], greedy(4))
    pipeline.run()
    again = pipeline.submit("c", [*range(100), *first.tokens, 5], greedy(4))
    pipeline.run()
    assert (other.cached, again.cached) == (0, 103)
