"""Assigns CPU cores to processes. Linux only: macOS cannot pin a process to a core."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pomona import host

CPUS = Path("/sys/devices/system/cpu")


def shares(workers: int) -> list[frozenset[int]]:
    """Divides the cores of this process among ``workers``; returns Linux's CPU numbers.

    With fewer cores than workers, consecutive workers get different cores. Every share is empty
    where a process cannot be pinned.
    """
    if not host.is_linux():
        return [frozenset[int]()] * workers
    return divide(sorted_by_core(host.cpu_affinity()), workers)


def one_core_each(workers: int) -> frozenset[int]:
    """One CPU of each share: never two threads of one core while there are enough cores."""
    return frozenset(min(share) for share in shares(workers) if share)


def divide(cores: Sequence[int], workers: int) -> list[frozenset[int]]:
    """Cuts ``cores`` into parts of equal size, in the order of the list."""
    size = len(cores) // workers
    if size == 0:
        return [frozenset({cores[index % len(cores)]}) for index in range(workers)]
    return [frozenset(cores[index * size : (index + 1) * size]) for index in range(workers)]


def sorted_by_core(cpus: Iterable[int], folder: Path = CPUS) -> list[int]:
    """Sorts CPUs by core, so that the threads of one core go to one worker."""
    return sorted(cpus, key=lambda cpu: (_first_thread(folder, cpu), cpu))


def _first_thread(folder: Path, cpu: int) -> int:
    """The lowest CPU number of the threads of a core; ``cpu`` itself without the file.

    The file holds a list like ``0,8`` or ``0-1``: Linux, Documentation/admin-guide/cputopology.
    """
    try:
        siblings = (folder / f"cpu{cpu}/topology/thread_siblings_list").read_text()
        return int(siblings.replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return cpu
