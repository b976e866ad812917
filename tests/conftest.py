"""Ends ZeroMQ's Context with the tests, and with it the thread that admits connections."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pomona.transport import terminate


@pytest.fixture(scope="session", autouse=True)
def _ending_context() -> Generator[None]:
    yield
    terminate()
