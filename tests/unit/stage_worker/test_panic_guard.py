"""A Mac does not load again what it panicked with; the reports are files of a test."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pomona import host
from pomona_stage_worker.hardware.panic_guard import PanicGuard, Share

SHARE = Share("m", 0, 12, 40 << 30, True)
NAME = "mac.stage_worker"


@pytest.fixture(autouse=True)
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SYSTEM", "darwin")


def guard(folder: Path) -> PanicGuard:
    return PanicGuard(folder / "state", NAME, folder / "reports")


def panic(folder: Path, later_s: float = 60.0) -> None:
    """Writes a report of a panic ``later_s`` from now."""
    report = folder / "reports" / "panic-full-2026-01-01-100000.0002.panic"
    report.parent.mkdir(exist_ok=True)
    report.write_text("{}")
    at = time.time() + later_s
    os.utime(report, (at, at))


def test_the_share_of_a_panic_is_not_loaded_again(tmp_path: Path) -> None:
    guard(tmp_path).hold(SHARE)
    panic(tmp_path)
    after = guard(tmp_path)
    assert after.panicked_at > 0
    assert "panicked at" in after.refusal(SHARE)
    assert "POMONA_STAGE_WORKER_MEMORY_BYTES" in after.refusal(SHARE)


@pytest.mark.parametrize(
    "other",
    [replace(SHARE, stop=11), replace(SHARE, usable_bytes=30 << 30), replace(SHARE, wired=False)],
    ids=["fewer layers", "less memory", "not wired"],
)
def test_another_share_or_other_limits_are_loaded(other: Share, tmp_path: Path) -> None:
    guard(tmp_path).hold(SHARE)
    panic(tmp_path)
    assert guard(tmp_path).refusal(other) == ""


def test_a_crash_without_a_panic_is_no_reason(tmp_path: Path) -> None:
    panic(tmp_path, -3600)
    first = guard(tmp_path)
    first.stop()
    guard(tmp_path).hold(SHARE)
    assert guard(tmp_path).refusal(SHARE) == ""


def test_a_panic_with_nothing_loaded_is_no_reason(tmp_path: Path) -> None:
    panic(tmp_path)
    assert guard(tmp_path).refusal(SHARE) == ""
    assert guard(tmp_path).panicked_at == 0


def test_a_clean_stop_after_the_panic_permits_the_share_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard(tmp_path).hold(SHARE)
    panic(tmp_path)
    refusing = guard(tmp_path)
    assert refusing.refusal(SHARE)
    now = time.time() + 120
    monkeypatch.setattr(time, "time", lambda: now)
    refusing.stop()
    assert guard(tmp_path).refusal(SHARE) == ""


def test_a_crash_with_another_share_still_refuses_only_the_one_of_the_panic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(SHARE, stop=4)
    guard(tmp_path).hold(SHARE)
    panic(tmp_path)
    now = time.time() + 120
    monkeypatch.setattr(time, "time", lambda: now)
    guard(tmp_path).hold(other)
    after = guard(tmp_path)
    assert after.refusal(SHARE)
    assert after.refusal(other) == ""


def test_a_process_that_ends_after_the_panic_without_a_clean_stop_still_refuses(
    tmp_path: Path,
) -> None:
    guard(tmp_path).hold(SHARE)
    panic(tmp_path)
    guard(tmp_path)
    assert guard(tmp_path).refusal(SHARE)


def test_other_systems_have_no_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SYSTEM", "linux")
    guard(tmp_path).hold(SHARE)
    panic(tmp_path)
    assert guard(tmp_path).refusal(SHARE) == ""
