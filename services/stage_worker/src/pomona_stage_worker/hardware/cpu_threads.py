"""Scheduling of the step thread and of MLX's compute thread on Linux.

On a CPU, the step thread hands MLX's compute thread a few operations at a time. Linux lets a
woken thread preempt its waker; where both share a core, as the workers of one machine
do, each hand-over costs two context switches. A SCHED_BATCH thread waits until the other blocks
(``man 7 sched``).
"""

from __future__ import annotations

import logging

import mlx.core as mx

from pomona import host

log = logging.getLogger(__name__)


def start_compute_thread() -> None:
    """Starts this thread's MLX compute thread with both in SCHED_BATCH.

    Must be called before this thread computes anything: MLX then starts the compute thread, which
    inherits the policy. If the system refuses the policy, both keep the default one.
    """
    try:
        if not host.use_batch_scheduling():
            return
    except OSError as error:
        log.warning("MLX's thread keeps the default scheduling policy: %s", error)
    mx.eval(mx.zeros(1) + 1)
