"""Detects that a Mac did not get back the memory that a killed process had wired.

macOS can lose the wired memory of a process that was killed while the GPU used it, until a reboot
(jundot/omlx 2184). Loading again would then fail again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson
import psutil

log = logging.getLogger(__name__)

GIB: Final = 1 << 30
MIN_LOST_BYTES: Final = 2 * GIB
"""Wired memory that other programs may take meanwhile."""
SAME_BOOT_S: Final = 60.0
"""Difference of two readings of the time of one boot."""
SETTLE_S: Final = 20.0
"""Seconds in which the system frees the memory of a process that has ended."""


@dataclass(frozen=True, slots=True)
class WiredMemory:
    """State of a machine's memory, in bytes.

    Attributes:
        booted_at: Unix time of the boot, seconds.
        wired: memory that cannot be paged out, of all processes.
        free: memory that is free or can be freed.
        held: weights that this worker's process has wired.
    """

    booted_at: float
    wired: int
    free: int
    held: int = 0


def read_wired_memory() -> WiredMemory | None:
    """Reads this machine's memory; None on systems that do not report wired memory."""
    memory = psutil.virtual_memory()
    wired = getattr(memory, "wired", None)
    if wired is None:
        return None
    return WiredMemory(psutil.boot_time(), int(wired), int(memory.available))


def lost_bytes(before: WiredMemory, now: WiredMemory) -> int:
    """Returns the memory that the last process of this worker did not give back; 0 for none.

    Args:
        before: memory at the first start since the boot; ``held`` of the last process.
    """
    if abs(before.booted_at - now.booted_at) > SAME_BOOT_S:
        return 0
    lost = now.wired - before.wired
    is_lost = lost > max(MIN_LOST_BYTES, before.held // 2) and now.free < before.held
    return lost if is_lost else 0


class WiredRecord:
    """This machine's memory, recorded over the processes of one worker.

    Args:
        read: reads the memory now.
    """

    def __init__(
        self,
        state_dir: Path,
        name: str,
        read: Callable[[], WiredMemory | None] = read_wired_memory,
    ) -> None:
        self._path = state_dir / f"{name}.wired.json"
        self._read = read
        self._before = _load(self._path)

    def trouble(self) -> str:
        """Returns why this machine cannot load weights now, and the remedy; empty if it can."""
        now = self._read()
        if now is None:
            return ""
        if self._before is None or abs(self._before.booted_at - now.booted_at) > SAME_BOOT_S:
            self._before = now
            self._store()
        lost = lost_bytes(self._before, now)
        if not lost:
            return ""
        return (
            f"this Mac needs a reboot: {lost / GIB:.0f} GiB that an ended process had wired were "
            f"not given back, and {now.free / GIB:.0f} GiB are free"
        )

    def hold(self, nbytes: int) -> None:
        """Records the weights that this process has wired."""
        if self._before is not None and self._before.held != nbytes:
            before = self._before
            self._before = WiredMemory(before.booted_at, before.wired, before.free, nbytes)
            self._store()

    def _store(self) -> None:
        if self._before is not None:
            try:
                self._path.write_bytes(orjson.dumps(asdict(self._before)))
            except OSError as error:
                log.warning("cannot record wired memory in %s: %s", self._path, error)


def _load(path: Path) -> WiredMemory | None:
    try:
        found = orjson.loads(path.read_bytes())
        return WiredMemory(
            float(found["booted_at"]), int(found["wired"]), int(found["free"]), int(found["held"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
