"""A log file of bounded size: when it is full it is renamed to ``NAME.1`` and starts over."""

from __future__ import annotations

import os
from pathlib import Path

import orjson

MAX_LOG_BYTES = 8 << 20
_TAIL_BYTES = 8192


class LogFile:
    """Stores the output of a process; keeps at most twice ``max_bytes``."""

    def __init__(self, path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._tail = b""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self.begin_line()

    def begin_line(self) -> None:
        """Ends a line that was cut off, by a process or a machine that died."""
        if self._file.tell() == 0:
            return
        with self.path.open("rb") as written:
            written.seek(-1, os.SEEK_END)
            if written.read(1) != b"\n":
                self.write(b"\n")

    def write(self, chunk: bytes) -> None:
        if self._file.tell() + len(chunk) > self._max_bytes:
            self._file.close()
            self.path.replace(self.path.with_name(self.path.name + ".1"))
            self._file = self.path.open("ab")
        self._file.write(chunk)
        self._file.flush()
        self._tail = (self._tail + chunk)[-_TAIL_BYTES:]

    def last_error(self) -> str:
        """Returns the last error in the output as one line; empty without one.

        That is the newest log entry of level error or above, or a plain line after it, like
        the last line of a traceback.
        """
        for raw in reversed(self._tail.splitlines()):
            line = raw.decode(errors="replace").strip()
            if not line:
                continue
            try:
                entry = orjson.loads(line)
            except orjson.JSONDecodeError:
                return line[:500]
            if isinstance(entry, dict) and entry.get("level") in ("error", "critical"):
                return str(entry.get("event", ""))[:500]
        return ""

    def clear_last_error(self) -> None:
        """Ignores output so far in :meth:`last_error`."""
        self._tail = b""

    def close(self) -> None:
        self._file.close()
