"""The record of stalls survives whatever happens to its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona.messages.limits import MAX_STALLS
from pomona.stalls import add_stall, read_stalls, stalls_path

NAME = "mac.stage_worker.0"


def test_stalls_are_kept_by_name_the_newest_ones(tmp_path: Path) -> None:
    assert read_stalls(tmp_path, NAME) == ()
    for number in range(MAX_STALLS + 3):
        add_stall(tmp_path, NAME, float(number))
    assert read_stalls(tmp_path, NAME) == tuple(map(float, range(3, MAX_STALLS + 3)))
    assert read_stalls(tmp_path, "mac.planner") == ()


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\xff\x00", b'{"a": 1}', b'["x", true, -1]'])
def test_a_damaged_file_is_an_empty_record_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    stalls_path(tmp_path, NAME).write_bytes(content)
    assert read_stalls(tmp_path, NAME) == ()
    add_stall(tmp_path, NAME, 5.0)
    assert read_stalls(tmp_path, NAME) == (5.0,)


def test_a_folder_that_cannot_be_written_loses_the_record_only(tmp_path: Path) -> None:
    add_stall(tmp_path / "missing", NAME, 5.0)
    assert read_stalls(tmp_path / "missing", NAME) == ()
