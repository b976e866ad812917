"""The run that the current task executes, and its reproducible ids.

A run that another gateway goes on with must write the same bytes again. What a reply consists of
beside its tokens, random ids and the time, is therefore derived from the run. Without a run these
functions are random, as usual.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from pomona_gateway.runs.run import Run

_current: ContextVar[Run | None] = ContextVar("run", default=None)


def current_run() -> Run | None:
    """Returns the run that the current task executes; None outside of runs."""
    return _current.get()


@contextmanager
def executing(run: Run) -> Generator[None]:
    """Makes ``run`` the current one while the block runs."""
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)


def new_hex(size: int) -> str:
    """Returns ``size`` bytes in hexadecimal, for an id."""
    run = current_run()
    return secrets.token_hex(size) if run is None else run.next_bytes(size).hex()


def new_seed(bits: int) -> int:
    """Returns a random number of at most ``bits`` bits, to seed a sampler with."""
    run = current_run()
    if run is None:
        return secrets.randbits(bits)
    return int.from_bytes(run.next_bytes(16), "big") & ((1 << bits) - 1)


def request_time() -> float:
    """Returns the Unix time of the request in seconds."""
    run = current_run()
    return time.time() if run is None else run.created
