"""The step thread and MLX's are scheduled so that neither goes before the other."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import mlx.core as mx
import pytest

from pomona_stage_worker.hardware.cpu_threads import begin_compute_thread

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SCHED_BATCH is Linux's")


def in_a_thread_of_its_own() -> tuple[int, list[int]]:
    """How that thread is scheduled after it computed, and those that MLX began for it."""
    seen: list[tuple[int, list[int]]] = []

    def run() -> None:
        before = threads()
        begin_compute_thread()
        mx.eval(mx.ones(4) * 2)
        begun = [os.sched_getscheduler(thread) for thread in threads() - before]
        seen.append((os.sched_getscheduler(0), begun))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return seen[0]


def threads() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def test_both_are_batches_and_no_other_thread_is() -> None:
    own, begun = in_a_thread_of_its_own()
    assert own == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert begun
    assert set(begun) == {os.SCHED_BATCH}


def test_a_system_that_refuses_costs_speed_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("seccomp")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    own, begun = in_a_thread_of_its_own()
    assert own == os.SCHED_OTHER
    assert set(begun) == {os.SCHED_OTHER}
    assert "scheduled as any other" in caplog.text
