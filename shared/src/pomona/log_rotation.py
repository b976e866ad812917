"""Reopens the log of a service after newsyslog or logrotate has renamed it.

launchd and systemd open the log and hand it on as standard output and error, so a service would
write into the renamed file for ever. It writes its process id beside the log, and reopens the log
on SIGHUP, which the rotating program sends to that id (``man 5 newsyslog.conf``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pomona import host

log = logging.getLogger(__name__)

LOG_SUFFIX: Final = ".log"
PID_SUFFIX: Final = ".pid"
_OUTPUTS: Final = (1, 2)


@contextmanager
def reopening_log(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Follows the rotation of this process's log while the block runs.

    Does nothing unless standard error is a file whose name ends with ``.log``.
    """
    path = host.path_of(2)
    if path is None or path.suffix != LOG_SUFFIX:
        yield
        return
    pid_file = path.with_suffix(PID_SUFFIX)
    loop.add_signal_handler(signal.SIGHUP, reopen, path)
    try:
        pid_file.write_text(f"{os.getpid()}\n")
    except OSError as error:
        log.warning("the log is not rotated, %s cannot be written: %s", pid_file, error.strerror)
    try:
        yield
    finally:
        with suppress(OSError):
            if pid_file.read_text().strip() == str(os.getpid()):
                pid_file.unlink()


def reopen(path: Path) -> None:
    """Makes standard output and error write to the file that now has this path."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    except OSError as error:
        log.error("cannot reopen %s: %s", path, error.strerror)
        return
    try:
        for output in _OUTPUTS:
            os.dup2(descriptor, output)
    finally:
        os.close(descriptor)
    log.info("the log was reopened")
