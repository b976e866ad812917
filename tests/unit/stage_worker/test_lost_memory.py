"""A Mac whose wired memory did not come back is put aside; any other state is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona_stage_worker.hardware.lost_memory import GIB, WiredMemory, WiredRecord

NAME = "mac.stage_worker"
BOOT = 1000.0


def memory(wired: int, free: int, boot: float = BOOT) -> WiredMemory:
    return WiredMemory(boot, wired * GIB, free * GIB)


@pytest.mark.parametrize(
    ("now", "is_lost"),
    [
        (memory(6, 100), False),
        (memory(90, 20), True),
        (memory(90, 100), False),
        (memory(30, 20), False),
        (memory(90, 20, BOOT + 5000), False),
    ],
    ids=["given back", "lost", "room for all", "others wired it", "rebooted"],
)
def test_memory_is_lost_when_it_stays_wired_and_nothing_else_is_free(
    tmp_path: Path, now: WiredMemory, is_lost: bool
) -> None:
    first = WiredRecord(tmp_path, NAME, lambda: memory(5, 120))
    assert first.trouble() == ""
    first.hold(80 * GIB)
    trouble = WiredRecord(tmp_path, NAME, lambda: now).trouble()
    assert ("needs a reboot" in trouble) == is_lost
    assert bool(trouble) == is_lost


def test_a_system_without_wired_memory_has_no_trouble(tmp_path: Path) -> None:
    record = WiredRecord(tmp_path, NAME, lambda: None)
    assert record.trouble() == ""
    record.hold(GIB)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"booted_at": "x"}', b"[]"])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / f"{NAME}.wired.json"
    path.write_bytes(content)
    assert WiredRecord(tmp_path, NAME, lambda: memory(90, 5)).trouble() == ""
    assert b"booted_at" in path.read_bytes()
