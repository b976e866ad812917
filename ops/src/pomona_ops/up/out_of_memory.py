"""Notices that the kernel has killed a process for lack of memory.

Sources: ``proc_vmstat(5)`` and the kernel's cgroup v2 document: both count ``oom_kill``, the
processes that the kernel killed for lack of memory. macOS keeps no such count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_COUNTS: Final = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))


class OutOfMemoryKills:
    """Counts the processes that the kernel has killed for lack of memory since it was made.

    Args:
        counts: files with lines ``oom_kill N``; missing ones count as 0.
    """

    def __init__(self, counts: Sequence[Path] = _COUNTS) -> None:
        self._counts = counts
        self._before = self._read()

    def has_killed(self) -> bool:
        """Tells whether there was one."""
        return any(now > before for now, before in zip(self._read(), self._before, strict=True))

    def _read(self) -> list[int]:
        return [_count(path) for path in self._counts]


def _count(path: Path) -> int:
    try:
        match = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) if match else 0
