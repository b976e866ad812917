"""Tests the scheduling policy of the step thread and of MLX's compute thread."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import mlx.core as mx
import pytest

from pomona_stage_worker.hardware.cpu_threads import start_compute_thread

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SCHED_BATCH is Linux's")


def policies() -> tuple[int, list[int]]:
    """Returns the policies of a new thread that computed, and of the threads that MLX started."""
    seen: list[tuple[int, list[int]]] = []

    def run() -> None:
        before = threads()
        start_compute_thread()
        mx.eval(mx.ones(4) * 2)
        started = [os.sched_getscheduler(thread) for thread in threads() - before]
        seen.append((os.sched_getscheduler(0), started))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return seen[0]


def threads() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def test_both_threads_are_sched_batch_and_no_other_is() -> None:
    own, started = policies()
    assert own == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert started
    assert set(started) == {os.SCHED_BATCH}


def test_a_system_that_refuses_the_policy_leaves_the_default(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("seccomp")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    own, started = policies()
    assert own == os.SCHED_OTHER
    assert set(started) == {os.SCHED_OTHER}
    assert "keeps the default scheduling policy" in caplog.text
