"""Operating system and processor architecture of this machine.

Everything that differs between macOS and Linux asks this module, so that a test can be on the
other system by setting ``SYSTEM`` and ``MACHINE``. Functions that only Linux has are called here,
behind the guard by which a type checker for macOS knows that they are not reached.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable

SYSTEM = sys.platform
"""``darwin`` or ``linux``."""
MACHINE = platform.machine()
"""``arm64`` on a Mac; ``x86_64`` or ``aarch64`` on Linux."""


def is_mac() -> bool:
    """Returns True on macOS."""
    return SYSTEM == "darwin"


def is_linux() -> bool:
    """Returns True on Linux."""
    return SYSTEM == "linux"


def cpu_affinity() -> frozenset[int]:
    """Returns the CPUs that this process may use; empty where a process cannot be pinned."""
    if sys.platform == "linux" and is_linux():
        return frozenset(os.sched_getaffinity(0))
    return frozenset()


def pin(pid: int, cpus: Iterable[int]) -> None:
    """Pins a process to CPUs. Does nothing where a process cannot be pinned.

    Raises OSError when the system refuses, ProcessLookupError when the process has ended.
    """
    if sys.platform == "linux" and is_linux():
        os.sched_setaffinity(pid, cpus)


def use_batch_scheduling() -> bool:
    """Gives this thread the policy SCHED_BATCH (``man 7 sched``), which Linux has.

    Returns:
        True if the policy changed from the default one. Raises OSError when the system refuses.
    """
    if sys.platform == "linux" and is_linux() and os.sched_getscheduler(0) == os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return True
    return False
