"""A registry of runs keeps no request waiting for ever."""

from __future__ import annotations

import asyncio

import pytest

from pomona.errors import RequestError
from pomona_gateway.runs import run_registry
from pomona_gateway.runs.run_registry import RunRegistry


def test_the_wait_for_a_journal_that_is_never_read_has_a_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_registry, "OTHERS_DEADLINE_S", 0.05)

    async def wait() -> None:
        async with asyncio.timeout(10):
            await RunRegistry(None, 1.0, 1 << 20).wait_for_others(key="k", tenant="t")

    with pytest.raises(RequestError) as caught:
        asyncio.run(wait())
    assert (caught.value.status, caught.value.code) == (503, "run_elsewhere")
