"""The step loop gives memory back once after the last message."""

from __future__ import annotations

import time

import pytest

from pomona.messages.pipeline import Cancel
from pomona.transport import Identity, Pull, Push
from pomona_stage_worker.engine.step_loop import IDLE_POLL_S, StepLoop
from support.waiting import wait_until


@pytest.mark.slow
def test_freed_memory_is_given_back_once_after_each_busy_time() -> None:
    calls: list[float] = []
    identity = Identity("pomona", "a.stage_worker", "boot")
    pull = Pull("127.0.0.1")
    loop = StepLoop(identity, pull, lambda: calls.append(time.monotonic()))
    loop.start()
    push = Push(identity, pull.endpoint, queue_when_disconnected=True)
    try:
        for times in (1, 2):
            push.send(Cancel("request", 0))
            wait_until(lambda: len(calls) == times, "memory is given back")  # noqa: B023
        idle_until = time.monotonic() + 3 * IDLE_POLL_S
        wait_until(lambda: time.monotonic() > idle_until, "several idle polls have passed")
        assert len(calls) == 2
    finally:
        push.close()
        assert loop.stop(10)
