"""A child process ends with the process that started it, even when that one is killed.

The parent holds the writing end of a pipe and every child the reading end. When the parent
is gone, however it went, the kernel closes its end and each child reads end-of-file. This
works alike on macOS and Linux, and needs no help from the dying parent.
"""

from __future__ import annotations

import os
import signal
import threading
import time

LIFELINE_VARIABLE = "POMONA_LIFELINE_FD"
LIFELINE_GRACE_S = 5.0


def watch_parent() -> None:
    """Watch the pipe that ``POMONA_LIFELINE_FD`` names, when there is one.

    At its end this process gets SIGTERM, and is ended LIFELINE_GRACE_S later if it still
    runs. The variable is removed, so that it means nothing to processes started from here.
    """
    value = os.environ.pop(LIFELINE_VARIABLE, "")
    if value.isdecimal():
        threading.Thread(target=_watch, args=(int(value),), name="lifeline", daemon=True).start()


def _watch(descriptor: int) -> None:
    try:
        os.read(descriptor, 1)
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LIFELINE_GRACE_S)
    os._exit(1)
