"""A number outlives the process that stored it, and a damaged file is no number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from pomona_stage_worker.mapped_number import MappedNumber

STORES = """
import os, signal, sys
from pathlib import Path
from pomona_stage_worker.mapped_number import MappedNumber
MappedNumber(Path(sys.argv[1])).store(41)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_number_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "number"
    assert MappedNumber(path).value == 0
    done = subprocess.run([sys.executable, "-c", STORES, str(path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert MappedNumber(path).value == 41


def test_a_damaged_file_is_zero_and_can_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_bytes(os.urandom(3))
    number = MappedNumber(path)
    assert number.value == 0
    number.store(7)
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    assert MappedNumber(path).value == 0


def test_without_a_file_the_number_is_in_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    number = MappedNumber(blocked / "number")
    number.store(3)
    assert number.value == 3
