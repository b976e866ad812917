"""KV memory is never exceeded, and no accepted reply is lost to make room."""

from __future__ import annotations

from pomona.messages.cache_ops import Open
from pomona_stage_worker.scheduler import SchedulerLimits
from support.doubles.pipeline import emulated_pipeline, greedy


def test_memory_pressure_preempts_and_every_reply_is_complete() -> None:
    limits = SchedulerLimits(stages=2, context_length=400, cache_tokens=300, min_prefix=4)
    pipeline = emulated_pipeline(limits)
    for number in range(5):
        pipeline.submit(f"r{number}", range(1000 * number, 1000 * number + 40), greedy(100))
    pipeline.run()
    assert all(len(client.tokens) == 100 for client in pipeline.clients.values())
    opened = [op for step in pipeline.steps for op in step.ops if isinstance(op, Open)]
    assert pipeline.scheduler.preemptions == len(opened) - 5 > 0


def test_smaller_caches_evict_prefixes_and_every_reply_is_complete() -> None:
    pipeline = emulated_pipeline(
        SchedulerLimits(stages=2, context_length=400, cache_tokens=1000, min_prefix=4)
    )
    pipeline.submit("kept", range(200), greedy(10))
    pipeline.run()
    assert pipeline.scheduler.prefixes.stored_tokens > 150
    for number in range(4):
        pipeline.submit(f"r{number}", range(1000 * number, 1000 * number + 40), greedy(100))
    pipeline.scheduler.limit_caches(150)
    assert pipeline.scheduler.prefixes.stored_tokens == 0
    pipeline.run()
    assert all(len(client.tokens) in (10, 100) for client in pipeline.clients.values())
    assert pipeline.scheduler.reserved_tokens <= 150
    longer = pipeline.submit("longer", range(160), greedy(10))
    assert longer.rejected is not None


def test_accepted_requests_finish_when_caches_become_smaller() -> None:
    pipeline = emulated_pipeline(
        SchedulerLimits(stages=2, context_length=400, cache_tokens=1000, min_prefix=4)
    )
    clients = [pipeline.submit(name, range(200), greedy(100), name) for name in "abc"]
    pipeline.scheduler.limit_caches(150)
    pipeline.run()
    assert [len(client.tokens) for client in clients] == [100, 100, 100]
