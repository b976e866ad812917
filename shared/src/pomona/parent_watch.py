"""Ends this process when its parent ends, even when the parent is killed.

The parent holds the write end of a pipe and every child the read end. When the parent exits
for any reason, the kernel closes the write end and each child reads end-of-file. The method
works on macOS and Linux alike and needs no cooperation from the parent.
"""

from __future__ import annotations

import os
import signal
import threading
import time

LIFELINE_VARIABLE = "POMONA_LIFELINE_FD"
LIFELINE_GRACE_S = 5.0
DRAIN_S = 2.0
"""Seconds of that in which running work may finish. Streams then end with an error."""


def watch_parent() -> None:
    """Watches the pipe named by ``POMONA_LIFELINE_FD``, if set.

    At end-of-file this process gets SIGTERM, after DRAIN_S seconds another one, and exits
    LIFELINE_GRACE_S seconds after the first at the latest. The variable is removed from the
    environment so that subprocesses ignore it.
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
    time.sleep(DRAIN_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LIFELINE_GRACE_S - DRAIN_S)
    os._exit(1)
