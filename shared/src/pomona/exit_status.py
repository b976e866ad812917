"""Exit statuses of services, and what launchd is told instead."""

from __future__ import annotations

import os
from typing import Final

EXIT_CONFIGURATION: Final = 78
"""Exit code when a setting is not valid or a port is in use (EX_CONFIG)."""
EXIT_STALLED: Final = 79
"""Exit code of a process that ends itself because a thread hangs."""
EXIT_GPU_FAILED: Final = 80
"""Exit code of a process whose GPU cannot compute any more."""
EXIT_TERMINATED: Final = 143
"""Exit code of a process that SIGTERM ended, as shells report it."""
LAUNCHD_VARIABLE: Final = "XPC_SERVICE_NAME"
"""Variable in which launchd names the job whose process this is."""
LAUNCHD_LABEL: Final = "com.pomona."


def exit_status(code: int) -> int:
    """Returns the status with which to exit instead of ``code``.

    launchd starts a job again unless it succeeds, and tells no error from another. So a wrong
    setting, which no restart corrects, is a success there, and an end by SIGTERM, which discovery
    sends to a service that hangs, is none.
    """
    if not os.environ.get(LAUNCHD_VARIABLE, "").startswith(LAUNCHD_LABEL):
        return code
    return {EXIT_CONFIGURATION: 0, 0: EXIT_TERMINATED}.get(code, code)
