"""Runs the commands by which macOS reports its state."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from typing import Final

COMMAND_DEADLINE_S: Final = 10.0
MAX_OUTPUT_BYTES: Final = 16 << 20
MAX_ERROR_BYTES: Final = 4096
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
    fails and prints nothing, or prints more than MAX_OUTPUT_BYTES; TimeoutExpired when it is late;
    FileNotFoundError when it is not installed.
    """
    path = command_path(command[0])
    if path is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        killer = threading.Timer(COMMAND_DEADLINE_S, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            output = process.stdout.read(MAX_OUTPUT_BYTES + 1)
            if len(output) > MAX_OUTPUT_BYTES:
                process.kill()
                raise OSError(f"{command[0]} printed more than {MAX_OUTPUT_BYTES} bytes")
            status = process.wait()
        finally:
            in_time = killer.is_alive()
            killer.cancel()
        if not in_time:
            raise subprocess.TimeoutExpired(command, COMMAND_DEADLINE_S)
        errors.seek(0)
        reason = errors.read(MAX_ERROR_BYTES).decode(errors="replace").strip()
    if status and not output:
        raise OSError(f"{command[0]} exited with status {status}: {reason}")
    return output.decode(errors="replace")
