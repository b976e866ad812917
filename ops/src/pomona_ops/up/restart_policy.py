"""When a dead service is started again: pure, time is a parameter."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pomona.service import EXIT_CONFIGURATION

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
HEALTHY_AFTER_S = 30.0
STARTED_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the service again after ``delay_s``."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not start it again: its settings cannot be used, and will not change by waiting."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """What a supervisor knows of one service's past deaths.

    Attributes:
        delay_s: how long the next restart waits.
        proven: a life of at least STARTED_AFTER_S showed that its settings can be used.
    """

    delay_s: float = FIRST_DELAY_S
    proven: bool = False

    def died(self, exit_code: int, lived_s: float) -> tuple[Restart | GiveUp, RestartPolicy]:
        """What to do about a death, and the policy that judges the next one.

        The delay doubles from FIRST_DELAY_S to LONGEST_DELAY_S, and starts over after a life
        of HEALTHY_AFTER_S. Exit code 78 ends it, unless the same settings worked before:
        then a port was taken for a moment, and waiting helps.
        """
        proven = self.proven or (lived_s >= STARTED_AFTER_S and exit_code != EXIT_CONFIGURATION)
        if exit_code == EXIT_CONFIGURATION and not proven:
            return GiveUp(), self
        delay_s = FIRST_DELAY_S if lived_s >= HEALTHY_AFTER_S else self.delay_s
        following = min(delay_s * 2, LONGEST_DELAY_S)
        return Restart(delay_s), replace(self, delay_s=following, proven=proven)
