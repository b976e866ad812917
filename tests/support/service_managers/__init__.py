"""A launchd and a systemd of executables, which refuse what the manuals do not allow.

``launchctl`` and ``systemctl`` run the units' commands as real processes, with the units' variables
alone, and keep what they know in the folder that POMONA_TEST_MANAGER names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

BIN = Path(__file__).parent / "bin"
FOLDER = "POMONA_TEST_MANAGER"


@contextmanager
def service_managers(folder: Path) -> Generator[dict[str, str]]:
    """Yields the variables with which commands find the executables. Ends their processes."""
    folder.mkdir(parents=True)
    names = ("launchctl", "systemctl", "dscl", "useradd", "userdel", "id")
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name in names:
        program = bin_folder / name
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} -IS {BIN.parent / "programs.py"} {name} "$@"\n'
        )
        program.chmod(0o755)
    try:
        yield {"PATH": f"{bin_folder}:{os.environ['PATH']}", FOLDER: str(folder)}
    finally:
        for pid in known(folder).get("pids", []):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if str(folder.parent) in "".join(process.environ().values()):
                    process.send_signal(signal.SIGKILL)


def known(folder: Path) -> dict[str, list[int]]:
    """Returns the ids of all processes that were started."""
    path = folder / "pids.json"
    return json.loads(path.read_text()) if path.exists() else {}
