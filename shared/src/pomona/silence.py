"""Decides which local services are ended because their beacons have stopped. Pure.

A process that is stopped or hangs keeps its sockets, so no other process notices its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

SILENCE_S = 7.0
"""Seconds without a beacon after which a process is ended: over twice a lease, so that the
others have already done what they can without it."""
STOPPED_S = 2.0
"""The same for a process that the system has suspended, which nothing else explains."""
UNHEARD_S = 2.5
"""Seconds without any beacon after which it is discovery, or this process, that was silent."""
DISCOVERY = "discovery"


class SilenceWatch:
    """Tracks the last beacon of each process. All times are monotonic seconds.

    A process is watched from its first beacon on: starting may take any time. All beacons pass
    through discovery, so when none comes at all, only discovery is to blame.
    """

    def __init__(self) -> None:
        self._heard: dict[tuple[str, int], float] = {}
        self._heard_any_at: float | None = None
        self._checked_at: float | None = None

    def observe(self, service: str, pid: int, now: float) -> None:
        """Records a beacon of ``service``, sent by process ``pid``."""
        if self._heard_any_at is not None and now - self._heard_any_at > UNHEARD_S:
            self._forgive(now)
        self._heard_any_at = now
        self._heard[service, pid] = now

    def silent(
        self,
        pids: Mapping[str, int],
        now: float,
        is_stopped: Callable[[str], bool] = lambda service: False,
    ) -> list[str]:
        """Returns the services to end.

        Args:
            pids: running processes by service.
            is_stopped: tells of a silent service whether its process is suspended; it is
                then ended after ``STOPPED_S``.
        """
        running = set(pids.items())
        self._heard = {key: at for key, at in self._heard.items() if key in running}
        checked_at, self._checked_at = self._checked_at, now
        if checked_at is not None and now - checked_at > UNHEARD_S:
            # This process did not run, so it could hear nobody.
            self._forgive(now)
            self._heard_any_at = now
        late = [
            service
            for (service, _), at in self._heard.items()
            if now - at > SILENCE_S or (now - at > STOPPED_S and is_stopped(service))
        ]
        if self._heard_any_at is None or now - self._heard_any_at > UNHEARD_S:
            late = [service for service in late if service == DISCOVERY]
        for service in late:
            del self._heard[service, pids[service]]
        return late

    def _forgive(self, now: float) -> None:
        self._heard = dict.fromkeys(self._heard, now)
