"""Which alerts are told, and when. Pure: time is a parameter (seconds).

Conditions of every moment come in; notices, each raised or resolved, come out. An alert
that was told is always followed by its resolution. The same alert is raised at most once
in ``repeat_after_s``: what begins and ends in between is counted, and told with its
resolution when that time has passed, so that nothing is kept silent for good.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from pomona.messages.control import Alert
from pomona_health_watcher.rules import Condition


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell people.

    Attributes:
        at: Unix time in seconds.
        times: how often it happened since it was last raised.
    """

    kind: Literal["raised", "resolved"]
    alert: Alert
    at: float
    times: int = 1


@dataclass(slots=True)
class _Entry:
    alert: Alert
    active: bool = False
    told: bool = False
    worse: bool = False
    restored: bool = False
    untold: int = 0
    raised_at: float | None = None


class AlertDeduplication:
    """Every alert that is wrong now, or was a short time ago.

    Args: restored: alerts that a former process told and did not resolve.
    """

    def __init__(self, repeat_after_s: float, restored: Iterable[Alert] = ()) -> None:
        self._repeat_after_s = repeat_after_s
        self._entries = {
            alert.key: _Entry(alert, active=True, told=True, restored=True) for alert in restored
        }

    def note(self, incident: Condition, unix: float) -> None:
        """Something was wrong and is over; :meth:`observe` tells it."""
        entry = self._entry(incident, unix)
        if not entry.active:
            entry.alert = _alert(incident, unix)
            entry.untold += 1

    def observe(
        self, conditions: Iterable[Condition], now: float, unix: float, settled: bool = True
    ) -> list[Notice]:
        """What to tell, given everything that is wrong now.

        Args: settled: False keeps restored alerts that nothing has confirmed yet.
        """
        notices: list[Notice] = []
        wrong = {condition.key: condition for condition in conditions}
        for condition in wrong.values():
            self._begin(condition, unix)
        for key, entry in list(self._entries.items()):
            over = entry.active and key not in wrong and (settled or not entry.restored)
            if over:
                notices += self._end(entry, unix)
            notices += self._tell(entry, now, unix)
            if not entry.active and not entry.untold and self._due(entry, now):
                del self._entries[key]
        return notices

    def active(self) -> list[Alert]:
        """What is wrong now, told or not, oldest first."""
        found = [entry.alert for entry in self._entries.values() if entry.active]
        return sorted(found, key=lambda alert: (alert.since, alert.key))

    def _entry(self, condition: Condition, unix: float) -> _Entry:
        return self._entries.setdefault(condition.key, _Entry(_alert(condition, unix)))

    def _begin(self, condition: Condition, unix: float) -> None:
        entry = self._entry(condition, unix)
        entry.restored = False
        if not entry.active:
            entry.active = True
            entry.alert = _alert(condition, unix)
            return
        if condition.severity == "critical" and entry.alert.severity == "warning":
            entry.worse = entry.told
        entry.alert = replace(_alert(condition, unix), since=entry.alert.since)

    def _end(self, entry: _Entry, unix: float) -> list[Notice]:
        entry.active = entry.restored = entry.worse = False
        if not entry.told:
            entry.untold += 1
            return []
        entry.told = False
        return [Notice("resolved", entry.alert, unix)]

    def _tell(self, entry: _Entry, now: float, unix: float) -> list[Notice]:
        if not self._due(entry, now):
            return []
        if entry.active and (entry.worse or not entry.told):
            times = entry.untold + 1
            entry.told, entry.worse, entry.untold, entry.raised_at = True, False, 0, now
            return [Notice("raised", entry.alert, unix, times)]
        if not entry.active and entry.untold:
            times = entry.untold
            entry.untold, entry.raised_at = 0, now
            return [
                Notice("raised", entry.alert, unix, times),
                Notice("resolved", entry.alert, unix),
            ]
        return []

    def _due(self, entry: _Entry, now: float) -> bool:
        return entry.raised_at is None or now - entry.raised_at >= self._repeat_after_s


def _alert(condition: Condition, unix: float) -> Alert:
    return Alert(condition.key, condition.severity, condition.summary[:4096], unix)
