"""Fixtures that all tests of a process share: the end of ZeroMQ's Context, and one browser
for the gateway's page."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from pomona.transport import terminate
from support.certificates import read_once
from support.chromium import Chromium, chromium, find_chromium

read_once()
# The disk of the machine that runs the tests is no part of what they assert.
os.environ.setdefault("POMONA_HEALTH_WATCHER_DISK_FREE_WARNING", "0")


@pytest.fixture(scope="session", autouse=True)
def _ending_context() -> Generator[None]:
    """Ends ZeroMQ's Context, and with it the thread that admits connections."""
    yield
    terminate()


@pytest.fixture(scope="session")
def browser() -> Generator[Chromium]:
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium is installed: `apt install chromium`, or set POMONA_TEST_CHROMIUM")
    with chromium(path) as running:
        yield running
