"""Unit tests use bare sockets, whatever tests of this process have used before."""

from __future__ import annotations

import pytest

from pomona.transport import use


@pytest.fixture(autouse=True)
def bare_sockets() -> None:
    use(None)
