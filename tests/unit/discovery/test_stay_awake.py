"""Keeps a Mac awake with the caffeinate of a Mac made of recordings."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from pomona_discovery.stay_awake import stay_awake
from support.mac.machines import STUDIO, answer_as
from support.waiting import wait_until_async


def caffeinates() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [x for x in children if any("caffeinate" in word for word in x.cmdline())]


def test_one_caffeinate_waits_for_this_process_and_ends_with_discovery(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    answer_as(monkeypatch, STUDIO)
    monkeypatch.setenv("MAC_CALLS", str(calls))

    async def body() -> None:
        task = asyncio.create_task(stay_awake())
        await wait_until_async(calls.exists, "caffeinate runs")
        assert len(caffeinates()) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(body())
    assert calls.read_text().splitlines() == [f"caffeinate -i -w {os.getpid()}"]
    assert caffeinates() == []


def test_nothing_runs_on_linux() -> None:
    asyncio.run(asyncio.wait_for(stay_awake(), 10))
    assert caffeinates() == []
