"""The fastest layouts of matrices, in a file that the workers of one machine share.

Timing a shape again after every restart would take seconds, and under load it may choose another
layout, whose sums can differ in the last bit.
"""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

log = logging.getLogger(__name__)

MAX_LAYOUTS = 4096
"""Maximum number of shapes in the file."""

_CONTENT = TypeAdapter(tuple[str, dict[str, str]])


class LayoutFile:
    """Names of layouts by shape.

    Args:
        folder: state folder. If it cannot be used, layouts are in memory only.
        measured_on: what the timings depend on. Those of anything else are dropped.
    """

    def __init__(self, folder: Path, measured_on: str) -> None:
        self._path = folder / "layouts.json"
        self._lock = folder / "layouts.lock"
        self._measured_on = measured_on
        self._layouts = self._read()

    def find(self, shape: str) -> str:
        """Returns the layout of a shape; empty if it was never timed."""
        return self._layouts.get(shape, "")

    def add(self, shape: str, layout: str) -> str:
        """Adds the layout of a shape. Returns an earlier one of another worker, if any."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._layouts = {shape: layout, **self._layouts, **self._read()}
                if len(self._layouts) <= MAX_LAYOUTS:
                    new = self._path.with_suffix(".new")
                    new.write_bytes(orjson.dumps((self._measured_on, self._layouts)))
                    new.replace(self._path)
        except OSError as error:
            self._layouts.setdefault(shape, layout)
            log.warning("the layouts of matrices cannot be kept in %s: %s", self._path, error)
        return self._layouts[shape]

    def _read(self) -> dict[str, str]:
        try:
            measured_on, layouts = _CONTENT.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            log.warning("%s is not used: %s", self._path, type(error).__name__)
            return {}
        return layouts if measured_on == self._measured_on else {}
