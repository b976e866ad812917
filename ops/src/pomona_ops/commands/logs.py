"""``pomona logs``: prints the services' logs for people. The files keep one JSON object a line."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.text import Text

from pomona.errors import ConfigurationError
from pomona.log_tail import LogLine, log_files, parse_lines
from pomona_ops.options import LogLevel

FOLLOW_INTERVAL_S: Final = 0.25
LAST_LINES: Final = 200
"""Lines printed without ``--since``."""
LEVELS: Final = ("debug", "info", "warning", "error")
_STYLES: Final = {"warning": "yellow", "error": "bold red", "critical": "bold red", "debug": "dim"}
_SHOWN: Final = {"time", "level", "service", "node", "event", "exception"}
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Attributes:
    service: name of a service or of one process, like ``stage_worker.1``; empty for all.
    since: Unix time in seconds; None prints the last LAST_LINES lines.
    level: the least severe level that is printed.
    """

    folder: Path
    service: str = ""
    follow: bool = False
    since: float | None = None
    level: LogLevel = "debug"


def show_logs(options: LogOptions) -> int:
    """Prints the logs. Returns 0; with ``follow``, runs until Ctrl-C.

    Raises ConfigurationError for a service without a log.
    """
    tails = {path: _Tail(path) for path in log_files(options.folder, options.service)}
    console = Console(highlight=False, soft_wrap=True)
    found = [*chain(*map(_older_half, tails)), *chain(*(tail.read() for tail in tails.values()))]
    lines = sorted(x for x in found if _is_wanted(x, options))
    for line in lines if options.since is not None else lines[-LAST_LINES:]:
        console.print(formatted(line))
    if options.follow:
        with suppress(KeyboardInterrupt):
            for line in _follow(options, tails):
                console.print(formatted(line))
                sys.stdout.flush()
    return 0


def parse_since(text: str, now: float) -> float:
    """Returns the Unix time that ``--since`` means.

    It is an age (``90s``, ``10m``, ``2h``, ``1d``), a time of today (``14:05``), or an ISO date and
    time, local unless it names its zone. Raises ConfigurationError.
    """
    age = _AGE.fullmatch(text.strip())
    if age:
        return now - float(age[1]) * _UNITS[age[2]]
    for form in ("%H:%M:%S", "%H:%M"):
        with suppress(ValueError):
            clock = datetime.strptime(text, form).time()
            return datetime.combine(datetime.fromtimestamp(now).date(), clock).timestamp()
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    raise ConfigurationError(
        f"--since {text!r} is not a valid time: use an age (90s, 10m, 2h, 1d), a time of today "
        "(14:05), or a date and time (2025-01-31T14:05)"
    )


def formatted(line: LogLine) -> Text:
    """Formats a line: local time, process, level unless it is info, event and its fields."""
    text = Text()
    at = datetime.fromtimestamp(line.at, UTC).astimezone()
    text.append(f"{at:%m-%d %H:%M:%S} ", style="dim")
    text.append(f"{line.who:<15} ", style="cyan")
    fields = line.fields or {}
    if line.fields is not None and line.level != "info":
        text.append(f"{line.level.upper()} ", style=_STYLES.get(line.level, ""))
    text.append(line.text, style=_STYLES.get(line.level, "") if line.level != "debug" else "dim")
    for name, value in fields.items():
        if name not in _SHOWN:
            text.append(f"  {name}=", style="dim").append(_value(value), style="dim")
    if "exception" in fields:
        text.append("\n    " + str(fields["exception"]).replace("\n", "\n    "), style="dim")
    return text


def _value(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _is_wanted(line: LogLine, options: LogOptions) -> bool:
    if options.since is not None and line.at < options.since:
        return False
    level = "error" if line.level == "critical" else line.level
    return level not in LEVELS or LEVELS.index(level) >= LEVELS.index(options.level)


def _older_half(path: Path) -> list[LogLine]:
    """Returns the lines of the file that the log had before it was full."""
    older = path.with_name(path.name + ".1")
    try:
        return parse_lines(older.read_text(errors="replace").splitlines(), path.stem, 0.0)
    except OSError:
        return []


def _follow(options: LogOptions, tails: dict[Path, _Tail]) -> Iterator[LogLine]:
    """Yields new lines for ever, also of processes that start later."""
    while True:
        for path in log_files(options.folder, options.service):
            tails.setdefault(path, _Tail(path))
        fresh = sorted(line for tail in tails.values() for line in tail.read())
        yield from (line for line in fresh if _is_wanted(line, options))
        time.sleep(FOLLOW_INTERVAL_S)


class _Tail:
    """Reads a growing log, across its rotation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._previous = 0.0
        self._position = 0
        self._inode = path.stat().st_ino
        self._partial = ""

    def read(self) -> list[LogLine]:
        """Returns the complete lines that are new."""
        text = self._partial
        try:
            status = self._path.stat()
            if status.st_ino != self._inode:
                text += self._rest(self._path.with_name(self._path.name + ".1"))
                self._inode, self._position = status.st_ino, 0
            text += self._rest(self._path)
        except OSError:
            pass
        *lines, self._partial = text.split("\n")
        found = parse_lines(lines, self._path.stem, self._previous)
        if found:
            self._previous = found[-1].at
        return found

    def _rest(self, path: Path) -> str:
        with path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        self._position += len(data)
        return data.decode(errors="replace")
