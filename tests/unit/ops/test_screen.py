"""The terminal output of ``pomona up``."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pomona.messages.control import StageStatus
from pomona_ops.up.event_formatter import Line
from pomona_ops.up.screen import Screen


def test_a_stage_shows_its_fetch_and_then_its_load(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(lambda: None)
    status = StageStatus("tiny", 7, 0, 16, "loading", fetched_bytes=50, fetch_bytes=100)
    screen.loading({"w0": status})
    screen.loading({"w0": replace(status, fetch_bytes=0, loaded_bytes=80, total_bytes=100)})
    output = capsys.readouterr().out
    assert "fetched 50 B of 100 B" in output
    assert "loaded 80 B of 100 B" in output


def test_a_long_line_is_folded_below_its_beginning_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "epoch 2 of SmolLM2-135M-Instruct: layers [0, 17) on stage_worker.0, [17, 30) on w1"
    Screen(lambda: None).line(Line("planner", text))
    (whole,) = capsys.readouterr().out.splitlines()
    assert whole.endswith(text), "a log of the output has one line"
    for name, value in (("FORCE_COLOR", "1"), ("NO_COLOR", "1"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    Screen(lambda: None).line(Line("planner", text))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert len(shown) > 1
    assert max(map(len, shown)) <= 80
    assert all(line.startswith(" " * len("00:00:00 planner         ")) for line in shown[1:])
    assert " ".join(line[25:] for line in shown) == text
