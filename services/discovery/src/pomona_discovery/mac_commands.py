"""Runs the commands by which macOS reports its state."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

COMMAND_DEADLINE_S: Final = 10.0
PLACES: Final = (
    "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/libexec/ApplicationFirewall",
    "/opt/homebrew/bin", "/usr/local/bin",
)  # fmt: skip
"""Folders after those of PATH. launchd gives a daemon a PATH without Homebrew's folders."""


def command_path(name: str) -> str | None:
    """Returns the path of a command in PATH or PLACES; None when it is not installed."""
    folders = [os.environ.get("PATH", ""), *PLACES]
    return shutil.which(name, path=os.pathsep.join(filter(None, folders)))


def run(command: list[str]) -> str:
    """Returns the standard output of a command.

    The exit status of a command that prints something is ignored: sysctl fails when one of several
    names is unknown, but prints the others. Raises OSError, with the error output, when a command
    fails and prints nothing; FileNotFoundError when it is not installed.
    """
    path = command_path(command[0])
    if path is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    done = subprocess.run(
        [path, *command[1:]],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_DEADLINE_S,
        check=False,
    )
    if done.returncode and not done.stdout:
        raise OSError(f"{command[0]} exited with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout
