"""Tells a killed ``pomona up``, whose children may still be ending, from a running one."""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

NAME = "up.lock"


def was_killed(state_dir: Path) -> bool:
    """Returns whether the last ``up`` with this state folder did not end by itself.

    A regular end removes the lock file. The kernel releases the lock of a killed process, whose
    children do not inherit it.
    """
    try:
        with (state_dir / NAME).open("rb") as file:
            return _lock(file)
    except OSError:
        return False


@contextmanager
def up_lock(state_dir: Path) -> Generator[None]:
    """Holds the lock of the state folder while the block runs, if no other ``up`` has it."""
    try:
        file = (state_dir / NAME).open("ab")
    except OSError:
        yield
        return
    with file:
        is_held = _lock(file)
        yield
        if is_held:
            with suppress(OSError):
                (state_dir / NAME).unlink()


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
