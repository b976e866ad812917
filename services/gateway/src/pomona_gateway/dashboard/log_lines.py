"""The newest lines of the logs on this machine, for administrators. Logs have no prompt, no reply
and no key."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from pomona.errors import ConfigurationError, RequestError
from pomona.log_tail import LogLine, last_lines, log_files
from pomona.plain_text import plain_text

MAX_LINES: Final = 1000
MAX_TEXT: Final = 2000
"""Characters of one line."""
_OWN: Final = {"time", "level", "service", "node", "event"}
_PATH_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class ShownLine:
    """A line as a page shows it.

    Attributes:
        at: Unix time in seconds; 0 when the line has none.
        process: name of the process, such as ``stage_worker.1``.
        text: event and fields.
    """

    at: float
    process: str
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class ShownLogs:
    """Attributes:
    node: name of this machine.
    processes: those that have a log here.
    """

    node: str
    processes: tuple[str, ...]
    lines: tuple[ShownLine, ...]


def read_logs(node: str, state_dir: Path, process: str, count: int) -> ShownLogs:
    """Reads the newest lines of a process, or of all when it is empty.

    Raises:
        RequestError: there is no such log (404).
    """
    folder = log_folder(state_dir)
    try:
        names = tuple(path.stem for path in log_files(folder))
    except ConfigurationError as error:
        message = f"there are no logs in {folder}: this gateway's services write elsewhere"
        raise RequestError(404, "no_logs", message) from error
    try:
        files = log_files(folder, process)
    except ConfigurationError as error:
        message = f"no log of {plain_text(process, 64)!r}; there are: {', '.join(names)}"
        raise RequestError(404, "no_logs", message, "process") from error
    return ShownLogs(node, names, tuple(_shown(x) for x in last_lines(files, count)))


def log_folder(state_dir: Path) -> Path:
    """Returns the folder of the logs: that of ``pomona up``, else that of the file to which a
    service manager writes what this process prints."""
    own = state_dir / "logs"
    if any(own.glob("*.log")):
        return own
    written = _file_of(sys.__stderr__.fileno() if sys.__stderr__ else 2)
    return own if written is None else written.parent


def _file_of(descriptor: int) -> Path | None:
    """Returns the path of an open regular file; None for a terminal or a pipe."""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        if sys.platform == "darwin":
            import fcntl

            name = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(_PATH_BYTES))
            return Path(os.fsdecode(name.rstrip(b"\0")))
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        return None


def _shown(line: LogLine) -> ShownLine:
    if line.fields is None:
        return ShownLine(line.at, line.who, "text", line.text[:MAX_TEXT])
    parts = [line.text]
    for name, value in line.fields.items():
        if name not in _OWN:
            parts.append(f"{name}={_value(value)}")
    return ShownLine(line.at, line.who, line.level, "  ".join(parts)[:MAX_TEXT])


def _value(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
