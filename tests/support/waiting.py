"""Waits in tests: polls a condition until it holds or a deadline passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

DEADLINE_S: Final = 60.0
POLL_S: Final = 0.01


def wait_until(
    condition: Callable[[], object],
    description: str,
    deadline_s: float = DEADLINE_S,
    poll_s: float = POLL_S,
) -> None:
    """Returns when ``condition()`` is true. Raises TimeoutError with ``description`` otherwise."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        _check(deadline, deadline_s, description)
        time.sleep(poll_s)


async def wait_until_async(
    condition: Callable[[], object], description: str, deadline_s: float = DEADLINE_S
) -> None:
    """Does what :func:`wait_until` does, without blocking the event loop."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        _check(deadline, deadline_s, description)
        await asyncio.sleep(POLL_S)


def _check(deadline: float, deadline_s: float, description: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"not within {deadline_s:g} s: {description}")
