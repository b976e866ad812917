"""Tells when a cluster is ready, not ready, and ready again. Pure: times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pomona_ops.up.event_formatter import Line

UNREADY_S: Final = 2.0
"""Seconds for which a ready cluster is not ready before a line says so. A killed service is back in
less, and the lines of its restart say it."""
IDLE: Final = "no model is loaded"
"""Beginning of the reason of a cluster that waits for a request to load a model."""


@dataclass(slots=True)
class Readiness:
    """Attributes:
    since: beginning of the present wait.
    model, url: the ready model, and its address.
    was_ready: it has been ready once.
    is_ready: nothing was wrong at the last update.
    """

    since: float
    model: str
    url: str
    was_ready: bool = False
    is_ready: bool = False
    _told: bool = False
    _is_idle: bool = False
    _death_told: float | None = None

    def update(
        self, reason: str, is_settled: bool, died_at: float | None, now: float
    ) -> Iterator[Line]:
        """Yields the lines for what has changed.

        Args:
            reason: why the gateway is not ready; empty when it is.
            is_settled: every service is back, and every pipeline active.
            died_at: when a service of this machine last died.
        """
        if reason:
            if self.is_ready:
                self.is_ready, self._told = False, False
                is_recent = died_at is not None and died_at != self._death_told
                self.since = min(now, died_at) if is_recent and died_at is not None else now
            if self.was_ready and not self._told and now - self.since >= UNREADY_S:
                self._told = True
                self._is_idle = reason.startswith(IDLE)
                if self._is_idle:
                    yield Line("gateway", f"idle: {reason}")
                else:
                    yield Line("gateway", f"not ready: {reason}", "warning")
            return
        if not is_settled:
            return
        if not self.was_ready:
            yield self._line("ready", now - self.since)
        elif self._is_idle:
            yield Line("pomona", f"a model is loaded: {self.url}/v1", "good")
        elif died_at is not None and died_at != self._death_told:
            since = min(self.since, died_at) if not self.is_ready else died_at
            yield self._line("ready again", now - since)
        elif not self.is_ready:
            yield self._line("ready again", now - self.since)
        self.was_ready = self.is_ready = True
        self._death_told, self._is_idle = died_at, False

    def _line(self, event: str, seconds: float) -> Line:
        return Line(
            "pomona", f"{event} after {seconds:.1f} s: {self.model} at {self.url}/v1", "good"
        )
