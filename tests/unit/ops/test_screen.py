"""The terminal output of ``pomona up``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.messages.control import StageStatus
from pomona_ops.up.screen import Screen


def test_a_stage_shows_its_fetch_and_then_its_load(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(lambda: None)
    status = StageStatus("tiny", 7, 0, 16, "loading", fetched_bytes=50, fetch_bytes=100)
    screen.loading({"w0": status})
    screen.loading({"w0": replace(status, fetch_bytes=0, loaded_bytes=80, total_bytes=100)})
    output = capsys.readouterr().out
    assert "fetched 50 B of 100 B" in output
    assert "loaded 80 B of 100 B" in output
