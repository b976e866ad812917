"""Record of the times at which a service was ended because it made no progress.

The process that hangs writes it, or its supervisor. The next process of the same
name states it in its beacon, and the planner avoids what stalls again and again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson

from pomona.messages.limits import MAX_STALLS

log = logging.getLogger(__name__)

WINDOW_S: Final = 600.0
"""Seconds for which a stall counts."""
SET_ASIDE_AFTER: Final = 3
"""Stalls within the window after which a worker is set aside."""


def stalls_path(state_dir: Path, name: str) -> Path:
    """File of the service ``name``, which is its name in the cluster."""
    return state_dir / f"{name}.stalls.json"


def read_stalls(state_dir: Path, name: str) -> tuple[float, ...]:
    """Returns the Unix times of the newest stalls, oldest first; none from an unreadable file."""
    try:
        found = orjson.loads(stalls_path(state_dir, name).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return ()
    if not isinstance(found, list):
        return ()
    times = (x for x in found if isinstance(x, int | float) and not isinstance(x, bool) and x >= 0)
    return tuple(sorted(map(float, times)))[-MAX_STALLS:]


def add_stall(state_dir: Path, name: str, at: float) -> None:
    """Adds a stall at a Unix time. A failing disk loses it, nothing else."""
    times: Sequence[float] = (*read_stalls(state_dir, name), at)[-MAX_STALLS:]
    path = stalls_path(state_dir, name)
    temporary = path.with_suffix(f".{os.getpid()}.new")
    try:
        temporary.write_bytes(orjson.dumps(times))
        temporary.replace(path)
    except OSError as error:
        log.warning("cannot record in %s that %s has stalled: %s", path, name, error)
