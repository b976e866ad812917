"""A service goes on in the new log after its old one was renamed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from pomona import host
from support.waiting import wait_until

SERVICE = """
import asyncio, sys
from pomona.log_rotation import reopening_log
async def main():
    with reopening_log(asyncio.get_running_loop()):
        while True:
            print("tick", file=sys.stderr, flush=True)
            await asyncio.sleep(0.05)
asyncio.run(main())
"""


def test_a_renamed_log_is_reopened_at_the_signal_of_newsyslog(tmp_path: Path) -> None:
    log, pid_file = tmp_path / "gateway.log", tmp_path / "gateway.pid"
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=output, stderr=output)
    try:
        wait_until(pid_file.exists, "the process id")
        assert int(pid_file.read_text()) == process.pid
        log.rename(tmp_path / "gateway.log.0")
        log.touch()
        os.kill(process.pid, signal.SIGHUP)
        wait_until(lambda: "tick" in log.read_text(), "a line in the new log")
    finally:
        process.terminate()
        process.wait(60)


def test_the_path_of_a_descriptor_is_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    with path.open("wb") as file:
        assert host.path_of(file.fileno()) == path
    reading, writing = os.pipe()
    assert host.path_of(reading) is None
    os.close(reading)
    os.close(writing)
