"""Limits and durability of the operating system."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pomona import host


def test_every_service_raises_its_limit_of_open_files(tmp_path: Path) -> None:
    code = """
import asyncio, resource
from pomona.service import run_service
from pomona.settings import ServiceSettings
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
async def main(stop): print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
run_service("test", ServiceSettings(), main)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "POMONA_STATE_DIR": str(tmp_path)},
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    expected = host.OPEN_FILES if hard == resource.RLIM_INFINITY else min(host.OPEN_FILES, hard)
    assert int(done.stdout) == expected


def test_a_file_on_a_mac_is_written_through_the_disks_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(host, "SYSTEM", "darwin")
    monkeypatch.setattr(fcntl, "fcntl", lambda _, command: calls.append(("fcntl", command)))  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(os, "fsync", lambda _: calls.append(("fsync", 0)))  # pyright: ignore[reportUnknownLambdaType]
    with (tmp_path / "file").open("wb") as file:
        host.sync(file.fileno())
    assert calls == [("fcntl", 51)]


def test_a_file_system_without_fullfsync_gets_fsync(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(host, "SYSTEM", "darwin")

    def refuse(descriptor: int, command: int) -> int:
        raise OSError(45, "Operation not supported")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(os, "fsync", calls.append)
    with (tmp_path / "file").open("wb") as file:
        host.sync(file.fileno())
    assert len(calls) == 1
