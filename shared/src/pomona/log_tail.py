"""Reads the services' log files: one JSON object a line, and text that a library has printed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson

from pomona.errors import ConfigurationError

TAIL_BYTES: Final = 128 << 10
"""Bytes at the end of each file that :func:`last_lines` reads."""


@dataclass(frozen=True, slots=True, order=True)
class LogLine:
    """A line of a log.

    Attributes:
        at: Unix time in seconds.
        who: the process, as its file is named.
        fields: the JSON object; None for a line of plain text.
    """

    at: float
    who: str = field(compare=False)
    text: str = field(compare=False)
    fields: dict[str, Any] | None = field(compare=False, default=None)

    @property
    def level(self) -> str:
        return str((self.fields or {}).get("level", "error"))


def log_files(folder: Path, service: str = "") -> list[Path]:
    """Returns the logs of a service, of one process, or of all. Raises ConfigurationError."""
    found = sorted(x for x in folder.glob("*.log") if x.is_file())
    if not found:
        raise ConfigurationError(
            f"no logs in {folder}: `pomona up` writes them; pass the cluster's port with --port"
        )
    wanted = service.replace("-", "_").replace(" ", "_")
    matching = [x for x in found if wanted in ("", x.stem, x.stem.partition(".")[0])]
    if not matching:
        names = ", ".join(x.stem for x in found)
        raise ConfigurationError(f"no log of {service!r} in {folder}; there are: {names}")
    return matching


def last_lines(files: Iterable[Path], count: int) -> list[LogLine]:
    """Returns the newest lines of all files in the order of time, at most ``count``.

    Only the last :data:`TAIL_BYTES` of each file are read.
    """
    found = [line for path in files for line in _tail(path)]
    return sorted(found)[-count:]


def parse_line(raw: str, who: str, previous: float) -> LogLine:
    """Reads one line; text that is not a JSON object gets the time of the line before it."""
    with suppress(orjson.JSONDecodeError, ValueError, TypeError):
        fields = orjson.loads(raw)
        if isinstance(fields, dict):
            at = datetime.fromisoformat(str(fields.get("time"))).timestamp()
            return LogLine(at, who, str(fields.get("event", "")), fields)
    return LogLine(previous, who, raw.rstrip())


def parse_lines(raws: Iterable[str], who: str, previous: float) -> list[LogLine]:
    """Reads the lines of one process, but for empty ones."""
    found: list[LogLine] = []
    for raw in filter(None, raws):
        line = parse_line(raw, who, previous)
        previous = max(previous, line.at)
        found.append(line)
    return found


def _tail(path: Path) -> list[LogLine]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            begin = max(0, size - TAIL_BYTES)
            file.seek(begin)
            raws = file.read(TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []
    # The first line may be the rest of one.
    return parse_lines(raws[1:] if begin else raws, path.stem, 0.0)
