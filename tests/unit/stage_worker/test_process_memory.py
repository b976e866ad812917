"""Memory of a process as macOS charges it; the call itself needs a Mac."""

from __future__ import annotations

import os
import struct

import mlx.core as mx
import pytest

from pomona import host
from pomona_stage_worker.hardware.process_memory import process_memory

USAGE = struct.pack("=16s10Q", bytes(range(16)), 1, 2, 3, 4, 5, 6, 7, 99 << 30, 8, 9)
"""``struct rusage_info_v0``: uuid, user and system time, wakeups of two kinds, page-ins, wired,
resident, physical footprint, start and exit time."""


class Counted:
    def get_active_memory(self) -> int:
        return 70 << 30

    def get_cache_memory(self) -> int:
        return 2 << 30


def test_a_mac_reports_its_physical_footprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SYSTEM", "darwin")
    asked: list[int] = []

    def read_usage(pid: int) -> bytes:
        asked.append(pid)
        return USAGE

    memory = process_memory(Counted(), read_usage)
    assert (memory.footprint, memory.active, memory.cached) == (99 << 30, 70 << 30, 2 << 30)
    assert asked == [os.getpid()]


@pytest.mark.parametrize("answer", [b"", OSError("denied")])
def test_a_footprint_that_cannot_be_read_is_the_resident_memory(
    answer: bytes | OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "SYSTEM", "darwin")

    def read_usage(_: int) -> bytes:
        if isinstance(answer, OSError):
            raise answer
        return answer

    memory = process_memory(None, read_usage)
    assert memory.footprint == memory.resident > 0


def test_mlxs_own_counters_are_read() -> None:
    kept = mx.ones((1 << 20,))
    mx.eval(kept)
    assert process_memory(mx).active >= kept.nbytes
