"""The queue is bounded, orders requests by urgency and is fair between tenants."""

from __future__ import annotations

from pomona.messages.cache_ops import Open
from pomona_stage_worker.scheduler import SchedulerLimits
from support.doubles.pipeline import InProcessPipeline, emulated_pipeline, greedy

LIMITS = SchedulerLimits(
    stages=3, context_length=400, cache_tokens=600, max_waiting=8, max_running=12, min_prefix=4
)


def started(pipeline: InProcessPipeline) -> list[str]:
    """Runs the pipeline. Returns the requests in the order in which they started."""
    pipeline.run()
    opened = [op.request for step in pipeline.steps for op in step.ops if isinstance(op, Open)]
    assert opened[0] == "running"
    return opened[1:]


def busy_pipeline(max_waiting: int = 256) -> InProcessPipeline:
    """Returns a pipeline that runs one request at a time and is running one."""
    pipeline = emulated_pipeline(
        SchedulerLimits(
            2, context_length=400, cache_tokens=10_000, max_running=1, max_waiting=max_waiting
        )
    )
    pipeline.submit("running", range(10), greedy(2), "running")
    pipeline.moves()[0]()
    return pipeline


def test_requests_beyond_the_capacity_are_rejected_with_429() -> None:
    pipeline = emulated_pipeline(LIMITS)
    for number in range(40):
        pipeline.submit(f"r{number}", range(200), greedy(300))
    refused = [client.rejected for client in pipeline.clients.values() if client.rejected]
    assert refused
    assert all(x.status == 429 and x.retry_after_s for x in refused)


def test_request_is_rejected_after_its_deadline() -> None:
    pipeline = emulated_pipeline(
        SchedulerLimits(stages=2, context_length=400, cache_tokens=10_000, max_running=1)
    )
    pipeline.submit("a", range(10), greedy(300))
    late = pipeline.submit("b", range(10), greedy(5), deadline_s=3.0)
    pipeline.run_rounds(10)
    pipeline.now = 3.5
    pipeline.run()
    assert late.rejected is not None
    assert late.rejected.status == 503


def test_requests_start_by_priority_then_by_arrival() -> None:
    pipeline = busy_pipeline()
    for name, priority in (("c", 1), ("d", 1), ("a", 0), ("e", 9), ("b", 0)):
        pipeline.submit(name, range(10), greedy(2), priority=priority)
    assert started(pipeline) == ["a", "b", "c", "d", "e"]


def test_low_priority_yields_to_later_requests_only_until_it_is_due() -> None:
    pipeline = busy_pipeline()
    pipeline.submit("title", range(10), greedy(2), priority=1)
    for name, moment in (("soon", 1.0), ("later", 24.0), ("too late", 26.0)):
        pipeline.now = moment
        pipeline.submit(name, range(10), greedy(2))
    assert started(pipeline) == ["soon", "later", "title", "too late"]


def test_tenant_with_many_old_requests_takes_turns_with_others() -> None:
    pipeline = busy_pipeline()
    for number in range(6):
        pipeline.submit(f"many{number}", range(10), greedy(2), "many")
    pipeline.now = 50.0
    for number in range(2):
        pipeline.submit(f"other{number}", range(10), greedy(2), "other")
    pipeline.submit("third", range(10), greedy(2), "third")
    first_places = {name: client.positions for name, client in pipeline.clients.items()}
    order = started(pipeline)
    assert order == [
        "many0", "other0", "third", "many1", "other1", "many2", "many3", "many4", "many5",
    ]  # fmt: skip
    assert [first_places[name][0] for name in order] == list(range(1, 10))


def test_earlier_starts_of_a_tenant_count_as_its_turns_and_urgent_requests_go_first() -> None:
    pipeline = emulated_pipeline(
        SchedulerLimits(stages=2, context_length=400, cache_tokens=10_000, max_running=3)
    )
    for number in range(6):
        pipeline.submit(f"many{number}", range(10), greedy(20), "many")
    pipeline.run_rounds(30)
    pipeline.submit("title", range(10), greedy(2), "other", priority=1)
    pipeline.submit("chat", range(10), greedy(2), "third")
    pipeline.run()
    opened = [op.request for step in pipeline.steps for op in step.ops if isinstance(op, Open)]
    assert opened == ["many0", "many1", "many2", "chat", "many3", "many4", "many5", "title"]


def test_full_queue_rejects_the_request_that_would_start_last() -> None:
    pipeline = busy_pipeline(max_waiting=3)
    titles = [pipeline.submit(f"t{n}", range(10), greedy(2), "many", priority=1) for n in range(4)]
    assert [x.rejected is None for x in titles] == [True, True, True, False]
    assert titles[3].rejected is not None
    assert (titles[3].rejected.status, titles[3].rejected.code) == (429, "queue_full")
    assert titles[3].rejected.retry_after_s
    chat = pipeline.submit("chat", range(10), greedy(2), "many")
    other = pipeline.submit("other", range(10), greedy(2), "other", priority=1)
    pipeline.run()
    assert [x.rejected is None for x in titles] == [True, False, False, False]
    assert all(len(x.tokens) == 2 for x in (titles[0], chat, other))


def test_preempted_request_is_not_rejected_by_a_full_queue() -> None:
    limits = SchedulerLimits(2, context_length=400, cache_tokens=130, min_prefix=4, max_waiting=1)
    pipeline = emulated_pipeline(limits)
    replies = [pipeline.submit("r0", range(30), greedy(60))]
    pipeline.moves()[0]()
    replies.append(pipeline.submit("r1", range(1000, 1030), greedy(60)))
    for _ in range(1000):
        pipeline.run_rounds(1)
        if pipeline.scheduler.waiting and all(x.tokens for x in replies):
            break
    assert pipeline.scheduler.waiting == 1
    late = pipeline.submit("late", range(5), greedy(2))
    assert late.rejected is not None
    pipeline.run()
    assert all(len(x.tokens) == 60 for x in replies)


def test_tenant_cannot_exceed_its_queue_share() -> None:
    pipeline = emulated_pipeline(
        SchedulerLimits(
            stages=2, context_length=400, cache_tokens=10_000, max_running=1, max_waiting=8
        )
    )
    pipeline.submit("running", range(10), greedy(2))
    pipeline.moves()[0]()
    many = [
        pipeline.submit(f"m{n}", range(10), greedy(2), "many", queue_share=0.25) for n in range(4)
    ]
    assert [x.rejected is None for x in many] == [True, True, False, False]
    assert many[2].rejected is not None
    assert (many[2].rejected.status, many[2].rejected.code) == (429, "queue_share_full")
    assert many[2].rejected.retry_after_s
    other = pipeline.submit("other", range(10), greedy(2), "other", queue_share=0.25)
    pipeline.run()
    assert all(len(x.tokens) == 2 for x in (*many[:2], other))
