"""Gateways get the queue places of their requests."""

from __future__ import annotations

from pomona_stage_worker.scheduler import SchedulerLimits
from support.doubles.pipeline import emulated_pipeline, greedy


def test_queue_places_are_reported_at_most_once_a_second() -> None:
    pipeline = emulated_pipeline(
        SchedulerLimits(stages=2, context_length=400, cache_tokens=10_000, max_running=1)
    )
    pipeline.submit("a", range(10), greedy(300))
    pipeline.moves()[0]()
    first = pipeline.submit("b", range(10), greedy(5))
    second = pipeline.submit("c", range(10), greedy(5))
    pipeline.run_rounds(50)
    assert (first.positions, second.positions) == ([1], [2])
    urgent = pipeline.submit("d", range(10), greedy(5), priority=0)
    urgent_too = pipeline.submit("e", range(10), greedy(5), priority=1)
    pipeline.cancel("b")
    pipeline.now = 1.0
    pipeline.run_rounds(1)
    assert (first.positions, second.positions) == ([1], [2, 1])
    assert (urgent.positions, urgent_too.positions) == ([2], [3])
    pipeline.run()
    assert pipeline.clients["a"].positions == []
    assert all(len(pipeline.clients[x].tokens) == 5 for x in "cde")
