"""A prompt of which processes died again and again limits those that are admitted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pomona_stage_worker.engine.prefill_record import (
    MIN_TOKENS,
    WINDOW_S,
    PrefillRecord,
    prompt_limit,
)

NAME = "mac.stage_worker"
DIES = """
import os, signal, sys
from pathlib import Path
from pomona_stage_worker.engine.prefill_record import PrefillRecord
record = PrefillRecord(Path(sys.argv[1]), "mac.stage_worker", float(sys.argv[2]))
record.begin(1, 4000)
record.end()
record.begin(2, 10)
record.end()
record.begin(1, 4000)
os.kill(os.getpid(), signal.SIGKILL)
"""


def die(folder: Path, at: float) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(folder), str(at)], check=False, timeout=60)


def test_two_deaths_of_a_long_prompt_limit_what_is_admitted(tmp_path: Path) -> None:
    die(tmp_path, 100.0)
    assert PrefillRecord(tmp_path, NAME, 110.0).deaths == ((8000, 110.0),)
    die(tmp_path, 120.0)
    deaths = PrefillRecord(tmp_path, NAME, 130.0).deaths
    assert deaths == ((8000, 110.0), (8000, 130.0))
    assert prompt_limit(deaths, 140.0) == 6000
    assert prompt_limit(deaths, 140.0 + WINDOW_S) == 0
    assert prompt_limit(deaths[:1], 140.0) == 0
    assert PrefillRecord(tmp_path, NAME, 150.0).deaths == deaths, "it ended in peace since"


def test_short_prompts_and_those_that_were_read_are_no_cause(tmp_path: Path) -> None:
    record = PrefillRecord(tmp_path, NAME, 1.0)
    record.begin(1, 9000)
    record.end()
    record.begin(2, MIN_TOKENS - 1)
    assert PrefillRecord(tmp_path, NAME, 2.0).deaths == ()


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'[["a", 1]]'])
def test_damaged_files_are_empty_records(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{NAME}.prefill.json").write_bytes(content)
    (tmp_path / f"{NAME}.prefill").write_bytes(content[:3])
    assert PrefillRecord(tmp_path, NAME, 1.0).deaths == ()


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    record = PrefillRecord(tmp_path / "file", NAME, 1.0)
    record.begin(1, 9000)
    record.end()
