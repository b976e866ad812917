"""A number in a memory-mapped file. It outlives a kill of the process, and a change is free."""

from __future__ import annotations

import logging
import mmap
import struct
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_LAYOUT: Final = struct.Struct("<qq")
"""The number, and its complement, by which a damaged file is recognised."""


class MappedNumber:
    """A number of at least 0.

    Args:
        path: its file. When the disk does not permit it, the number is in memory only.

    Attributes:
        value: as last stored, by this process or an earlier one; 0 from a damaged file.
    """

    def __init__(self, path: Path) -> None:
        self._map = _open_map(path)
        self.value = 0
        if self._map is not None:
            number, complement = _LAYOUT.unpack_from(self._map, 0)
            self.value = int(number) if number >= 0 and complement == ~number else 0

    def store(self, number: int) -> None:
        """Replaces the number."""
        self.value = number
        if self._map is not None:
            _LAYOUT.pack_into(self._map, 0, number, ~number)


def _open_map(path: Path) -> mmap.mmap | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if path.stat().st_size < _LAYOUT.size:
                file.write(bytes(_LAYOUT.size))
                file.flush()
            return mmap.mmap(file.fileno(), _LAYOUT.size)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be kept: %s", path, error)
        return None
