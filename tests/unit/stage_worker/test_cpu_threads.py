"""Tests the scheduling policy of the step thread and of MLX's compute thread."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import mlx.core as mx
import pytest

from pomona import host
from pomona_stage_worker.hardware.cpu_threads import start_compute_thread

BATCH = 3
"""SCHED_BATCH of <sched.h>. Python's ``os`` has it on Linux only."""

pytestmark = pytest.mark.skipif(not host.is_linux(), reason="SCHED_BATCH is Linux's")


def policies() -> tuple[int, list[int]]:
    """Returns the policies of a new thread that computed, and of the threads that MLX started."""
    seen: list[tuple[int, list[int]]] = []

    def run() -> None:
        before = threads()
        start_compute_thread()
        mx.eval(mx.ones(4) * 2)
        started = [scheduling_policy(thread) for thread in threads() - before]
        seen.append((scheduling_policy(0), started))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return seen[0]


def scheduling_policy(thread: int) -> int:
    """Reads field 41 of ``/proc/<thread>/stat`` (``man 5 proc_pid_stat``)."""
    path = f"/proc/{thread or threading.get_native_id()}/stat"
    return int(Path(path).read_text().rpartition(")")[2].split()[38])


def threads() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def test_both_threads_are_sched_batch_and_no_other_is() -> None:
    own, started = policies()
    assert own == BATCH
    assert scheduling_policy(0) == 0
    assert started
    assert set(started) == {BATCH}


def test_a_system_that_refuses_the_policy_leaves_the_default(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("seccomp")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    own, started = policies()
    assert own == 0
    assert set(started) == {0}
    assert "keeps the default scheduling policy" in caplog.text
