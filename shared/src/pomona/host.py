"""Operating system and processor architecture of this machine.

Everything that differs between macOS and Linux asks this module, so that a test can be on the
other system by setting ``SYSTEM`` and ``MACHINE``. Functions that only Linux has are called here,
behind the guard by which a type checker for macOS knows that they are not reached.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import resource
import stat
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

SYSTEM = sys.platform
"""``darwin`` or ``linux``."""
MACHINE = platform.machine()
"""``arm64`` on a Mac; ``x86_64`` or ``aarch64`` on Linux."""

OPEN_FILES: Final = 8192
"""Sockets and files that a process may open, if the hard limit permits."""
COMMAND_DEADLINE_S: Final = 5.0
MACHINE_ID: Final = Path("/etc/machine-id")
F_FULLFSYNC: Final = 51
"""``F_FULLFSYNC`` of macOS's <fcntl.h>."""
F_GETPATH: Final = 50
"""``F_GETPATH`` of macOS's <fcntl.h>."""
MAX_PATH_BYTES: Final = 1024


def is_mac() -> bool:
    """Returns True on macOS."""
    return SYSTEM == "darwin"


def is_linux() -> bool:
    """Returns True on Linux."""
    return SYSTEM == "linux"


def cpu_affinity() -> frozenset[int]:
    """Returns the CPUs that this process may use; empty where a process cannot be pinned."""
    if sys.platform == "linux" and is_linux():
        return frozenset(os.sched_getaffinity(0))
    return frozenset()


def pin(pid: int, cpus: Iterable[int]) -> None:
    """Pins a process to CPUs. Does nothing where a process cannot be pinned.

    Raises OSError when the system refuses, ProcessLookupError when the process has ended.
    """
    if sys.platform == "linux" and is_linux():
        os.sched_setaffinity(pid, cpus)


def raise_open_files_limit(wanted: int = OPEN_FILES) -> None:
    """Raises this process's limit of open files to ``wanted``; macOS starts programs with 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def sync(descriptor: int) -> None:
    """Writes a file to the disk. Raises OSError when the disk fails.

    On macOS ``fsync`` leaves the content in the disk's cache (``man 2 fsync``); F_FULLFSYNC does
    not, but not every file system has it.
    """
    if is_mac():
        with suppress(OSError):
            fcntl.fcntl(descriptor, F_FULLFSYNC)
            return
    os.fsync(descriptor)


@cache
def hardware_uuid() -> str:
    """Returns the UUID of this machine, which a copy of its disk does not take along.

    On Linux it is that of the installation (``man 5 machine-id``), since the hardware's is for root
    only. Empty when it cannot be read.
    """
    if is_mac():
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                ["/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice"],
                capture_output=True,
                text=True,
                timeout=COMMAND_DEADLINE_S,
                check=True,
            )
            found = re.search(r'"IOPlatformUUID" = "([^"]+)"', done.stdout)
            return found[1] if found else ""
        return ""
    with suppress(OSError):
        return MACHINE_ID.read_text().strip()
    return ""


def path_of(descriptor: int) -> Path | None:
    """Returns the path of an open regular file; None for anything else."""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        if is_mac():
            found = fcntl.fcntl(descriptor, F_GETPATH, bytes(MAX_PATH_BYTES))
            return Path(os.fsdecode(found.rstrip(b"\0")))
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        return None
