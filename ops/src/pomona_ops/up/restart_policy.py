"""Decides whether and when a service that exited is restarted. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace

from pomona.service import EXIT_CONFIGURATION

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
HEALTHY_AFTER_S = 30.0
STARTED_AFTER_S = 2.0
ENDED_BY_OTHERS = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})
"""Exit codes of a process that did not end by itself."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Restart the service after ``delay_s`` seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not restart the service: its settings are invalid, and waiting does not change them."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The restart history of one service.

    Attributes:
        delay_s: delay of the next restart.
        proven: its settings are valid, because it once ran for STARTED_AFTER_S.
    """

    delay_s: float = FIRST_DELAY_S
    proven: bool = False

    def on_exit(self, exit_code: int, uptime_s: float) -> tuple[Restart | GiveUp, RestartPolicy]:
        """Returns the decision, and the policy for the next exit.

        The delay doubles from FIRST_DELAY_S to LONGEST_DELAY_S with each exit of the service
        itself, and starts over after an uptime of HEALTHY_AFTER_S. A service that another process
        ended after its start is restarted at once, however often. Exit code 78 (invalid settings)
        is final, unless the settings have worked before: then a port was taken for a moment, and
        waiting helps.
        """
        proven = self.proven or (uptime_s >= STARTED_AFTER_S and exit_code != EXIT_CONFIGURATION)
        if exit_code == EXIT_CONFIGURATION and not proven:
            return GiveUp(), self
        if exit_code in ENDED_BY_OTHERS and uptime_s >= STARTED_AFTER_S:
            kept_s = FIRST_DELAY_S if uptime_s >= HEALTHY_AFTER_S else self.delay_s
            return Restart(FIRST_DELAY_S), replace(self, delay_s=kept_s, proven=True)
        delay_s = FIRST_DELAY_S if uptime_s >= HEALTHY_AFTER_S else self.delay_s
        following = min(delay_s * 2, LONGEST_DELAY_S)
        return Restart(delay_s), replace(self, delay_s=following, proven=proven)
