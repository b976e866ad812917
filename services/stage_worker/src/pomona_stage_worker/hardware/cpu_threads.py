"""The step thread and MLX's own, which computes on a CPU what it is handed, some operations a time.

Linux lets a thread that is woken run before the one that woke it. Where both share a core, as
workers of one machine do, that is two switches for each hand-over. A thread of SCHED_BATCH waits
until the other has nothing left to do (``man 7 sched``).
"""

from __future__ import annotations

import logging
import os
import sys

import mlx.core as mx

log = logging.getLogger(__name__)


def begin_compute_thread() -> None:
    """Have MLX begin this thread's compute thread, so that neither goes before the other.

    To be called before this thread computes anything: MLX begins it then, and a thread inherits
    how it is scheduled. Where the system refuses, all stays as it is, and a step takes longer.
    """
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        log.warning("MLX's thread is scheduled as any other: %s", error)
    mx.eval(mx.zeros(1) + 1)
