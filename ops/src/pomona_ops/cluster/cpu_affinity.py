"""Which CPU cores a process is kept on. Linux only: macOS keeps no process on a core."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")


def shares(workers: int) -> list[frozenset[int]]:
    """The cores that this process may use, by Linux's numbers, shared out among ``workers``;
    neighbours get different ones where there are too few. Empty shares where no process can be
    kept on a core.
    """
    if sys.platform != "linux":
        return [frozenset[int]()] * workers
    return share_out(by_core(os.sched_getaffinity(0)), workers)


def one_of_each(workers: int) -> frozenset[int]:
    """One core of each share, never two threads of a core while there are enough cores."""
    return frozenset(min(share) for share in shares(workers) if share)


def share_out(cores: Sequence[int], workers: int) -> list[frozenset[int]]:
    """``cores`` in parts of the same size, each of neighbours in the list."""
    size = len(cores) // workers
    if size == 0:
        return [frozenset({cores[index % len(cores)]}) for index in range(workers)]
    return [frozenset(cores[index * size : (index + 1) * size]) for index in range(workers)]


def by_core(cpus: Iterable[int], folder: Path = CPUS) -> list[int]:
    """Sorted so that the threads of a core are neighbours, for two workers not to share it."""
    return sorted(cpus, key=lambda cpu: (_first_thread(folder, cpu), cpu))


def _first_thread(folder: Path, cpu: int) -> int:
    """The lowest number among the threads of a core; the cpu's own where Linux does not say.

    The file holds a list like ``0,8`` or ``0-1``: Linux, Documentation/admin-guide/cputopology.
    """
    try:
        siblings = (folder / f"cpu{cpu}/topology/thread_siblings_list").read_text()
        return int(siblings.replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return cpu
