"""Ends the process when its step thread or its loading makes no progress."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from pomona.exit_status import EXIT_GPU_FAILED, EXIT_STALLED
from pomona.stalls import add_stall
from pomona_stage_worker.engine.progress_watch import Activity, ProgressWatch
from pomona_stage_worker.engine.stage_runner import StageRunner
from pomona_stage_worker.engine.step_loop import StepLoop

log = logging.getLogger(__name__)


class Watchdog:
    """Watches the threads of one stage worker from its control thread.

    A thread that hangs in MLX cannot be ended alone, and a GPU whose command queue failed does not
    recover within the process. So the process ends, and its supervisor starts another.

    Args:
        state_dir: folder in which the stall is recorded.
        name: name of the worker in the cluster.
    """

    def __init__(self, loop: StepLoop, state_dir: Path, name: str) -> None:
        self._loop = loop
        self._state_dir = state_dir
        self._name = name
        self._steps = ProgressWatch()
        self._loading = ProgressWatch()
        self._loaded: tuple[tuple[int, int], ...] = ()
        self._loaded_at = 0.0

    def expect_decode(self, seconds: float) -> None:
        """Adds the decode time that a stage's warm-up measured."""
        self._steps.expect_decode(seconds)

    def check(self, runners: Iterable[StageRunner], loaded: Iterable[tuple[int, int]]) -> None:
        """Ends the process when something hangs. Call it several times a second.

        Args:
            loaded: (epoch, bytes) of each stage that reads weights from this machine's disk.
        """
        now = time.monotonic()
        if any(runner.has_lost_gpu for runner in runners):
            self._end(EXIT_GPU_FAILED, "the GPU's command queue failed")
        if reason := self._steps.hangs(self._loop.activity(), now):
            self._end(EXIT_STALLED, reason)
        seen = tuple(loaded)
        if seen != self._loaded or not seen:
            self._loaded, self._loaded_at = seen, now
        if reason := self._loading.hangs(Activity("load", self._loaded_at), now):
            self._end(EXIT_STALLED, reason)

    def _end(self, code: int, reason: str) -> NoReturn:
        add_stall(self._state_dir, self._name, time.time())
        log.critical(
            "%s; the process ends itself, to be started again", reason,
            extra={"stacks": thread_stacks(), "exit_code": code},
        )  # fmt: skip
        for handler in logging.getLogger().handlers:
            handler.flush()
        # The thread that hangs would keep a regular exit waiting for ever.
        os._exit(code)


def thread_stacks() -> dict[str, list[str]]:
    """Returns the stack of each thread, innermost call last, by the thread's name and id."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # documented as public
    return {
        f"{names.get(ident, 'unknown')} ({ident})": [
            line.rstrip() for line in traceback.format_stack(frame)
        ]
        for ident, frame in frames.items()
    }
