"""Turns conditions into notices, each alert raised once and resolved once. Pure.

Every raised notice is followed by a resolved one. The same alert is raised at most once in
``repeat_after_s``; an active one is raised again when it becomes critical, or happens again. What
begins and ends in between is counted, and the count is reported when that time is over, so no
alert is suppressed for good.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from pomona.messages.control import Alert
from pomona_health_watcher.conditions import Condition


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for people about one alert.

    Attributes:
        at: Unix time in seconds; of a resolved alert, the time at which its effect ended.
        times: how often the condition occurred since the alert was last raised.
    """

    kind: Literal["raised", "resolved"]
    alert: Alert
    at: float
    times: int = 1


@dataclass(slots=True)
class _Entry:
    alert: Alert
    active: bool = False
    raised: bool = False
    worse: bool = False
    restored: bool = False
    count: int = 1
    over_at: float | None = None
    unreported: int = 0
    raised_at: float | None = None


class AlertDeduplication:
    """Keeps every alert that is active or was raised within ``repeat_after_s``.

    Args:
        restored: alerts that a former process raised and did not resolve.
    """

    def __init__(self, repeat_after_s: float, restored: Iterable[Alert] = ()) -> None:
        self._repeat_after_s = repeat_after_s
        self._entries = {
            alert.key: _Entry(alert, active=True, raised=True, restored=True) for alert in restored
        }

    def add_incident(self, incident: Condition, unix: float) -> None:
        """Counts a condition that is over already; :meth:`update` reports it."""
        entry = self._entry(incident, unix)
        if not entry.active:
            entry.alert = _alert(incident, unix)
            entry.over_at = unix
            entry.unreported += 1

    def update(
        self, conditions: Iterable[Condition], now: float, unix: float, settled: bool = True
    ) -> list[Notice]:
        """Returns the notices that follow from all conditions that hold now.

        Args:
            now, unix: monotonic and Unix time, seconds.
            settled: False keeps restored alerts that no condition has confirmed yet.
        """
        notices: list[Notice] = []
        current = {condition.key: condition for condition in conditions}
        for condition in current.values():
            self._activate(condition, unix)
        for key, entry in list(self._entries.items()):
            over = entry.active and key not in current and (settled or not entry.restored)
            if over:
                notices += self._deactivate(entry, unix)
            notices += self._raise(entry, now, unix)
            if not entry.active and not entry.unreported and self._may_raise(entry, now):
                del self._entries[key]
        return notices

    def active(self) -> list[Alert]:
        """Every alert whose condition holds, raised or not, oldest first."""
        found = [entry.alert for entry in self._entries.values() if entry.active]
        return sorted(found, key=lambda alert: (alert.since, alert.key))

    def _entry(self, condition: Condition, unix: float) -> _Entry:
        return self._entries.setdefault(condition.key, _Entry(_alert(condition, unix)))

    def _activate(self, condition: Condition, unix: float) -> None:
        entry = self._entry(condition, unix)
        entry.restored = False
        entry.over_at = unix - condition.over_s if condition.over_s else None
        if not entry.active:
            entry.active = True
            entry.count = condition.count
            entry.alert = _alert(condition, unix)
            return
        escalates = condition.severity == "critical" and entry.alert.severity == "warning"
        if escalates or condition.count > entry.count:
            entry.worse = entry.raised
        entry.count = max(entry.count, condition.count)
        entry.alert = replace(_alert(condition, unix), since=entry.alert.since)

    def _deactivate(self, entry: _Entry, unix: float) -> list[Notice]:
        entry.active = entry.restored = entry.worse = False
        entry.over_at = entry.over_at or unix
        if not entry.raised:
            entry.unreported += 1
            return []
        entry.raised = False
        return [Notice("resolved", entry.alert, entry.over_at)]

    def _raise(self, entry: _Entry, now: float, unix: float) -> list[Notice]:
        if not self._may_raise(entry, now):
            return []
        if entry.active and (entry.worse or not entry.raised):
            times = entry.unreported + 1
            entry.raised, entry.worse, entry.unreported = True, False, 0
            entry.raised_at = now
            return [Notice("raised", entry.alert, unix, times)]
        if not entry.active and entry.unreported:
            times = entry.unreported
            entry.unreported, entry.raised_at = 0, now
            return [
                Notice("raised", entry.alert, unix, times),
                Notice("resolved", entry.alert, entry.over_at or unix),
            ]
        return []

    def _may_raise(self, entry: _Entry, now: float) -> bool:
        return entry.raised_at is None or now - entry.raised_at >= self._repeat_after_s


def _alert(condition: Condition, unix: float) -> Alert:
    since = unix - condition.age_s
    return Alert(condition.key, condition.severity, condition.summary[:4096], since)
