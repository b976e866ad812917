"""Describes how a process ended: exit code, signal, or lack of memory.

Sources: ``proc_vmstat(5)`` and the kernel's cgroup v2 document: both count ``oom_kill``, the
processes that the kernel killed for lack of memory. macOS keeps no such count.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pomona.service import EXIT_GPU_FAILED, EXIT_STALLED

_CAUSES: Final = {
    EXIT_STALLED: "a thread made no progress",
    EXIT_GPU_FAILED: "the GPU failed",
}
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


def exit_cause(code: int, out_of_memory: bool = False) -> str:
    """Describes an exit code; a negative one is a signal.

    Args:
        out_of_memory: the kernel killed a process for lack of memory meanwhile.
    """
    if code in _CAUSES:
        return f"ended itself (code {code}): {_CAUSES[code]}"
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    reason = ", as the machine was out of memory" if out_of_memory and name == "SIGKILL" else ""
    return f"was killed by {name}{reason}"
