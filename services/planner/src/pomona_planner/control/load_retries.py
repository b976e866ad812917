"""Pauses between attempts to load a stage that failed to load."""

from __future__ import annotations

PAUSES_S = (5.0, 15.0, 60.0)
"""Seconds before the first, the second and each later retry."""


class LoadRetries:
    """Schedule of the retries, which ends with :meth:`reset`."""

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at: float | None = None

    def is_due(self, now: float) -> bool:
        """Returns whether to retry now, and schedules the next retry if none is scheduled.

        Call it while a stage has failed to load; ``now`` is in monotonic seconds.
        """
        if self._retry_at is None:
            pause_s = PAUSES_S[min(self._failures, len(PAUSES_S) - 1)]
            self._failures += 1
            self._retry_at = now + pause_s
            return False
        if now < self._retry_at:
            return False
        self._retry_at = None
        return True

    def reset(self) -> None:
        """Starts with the shortest pause again, after all stages have loaded."""
        self._failures = 0
