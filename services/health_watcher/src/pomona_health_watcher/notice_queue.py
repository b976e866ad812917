"""Holds notices until they are posted: bounded, first in first out. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pomona_health_watcher.alert_deduplication import Notice


class NoticeQueue:
    """Keeps the order of notices. When it is full it drops the least important one.

    It drops first an alert whose raised and resolved notices both still wait, then the oldest
    raised notice, and last the resolved notice of an alert that people know of.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: list[Notice] = []

    def put(self, notices: Iterable[Notice]) -> list[Notice]:
        """Adds notices. Returns those that were dropped."""
        self._waiting += notices
        dropped: list[Notice] = []
        while len(self._waiting) > self._size:
            for notice in self._least_important():
                self._waiting.remove(notice)
                dropped.append(notice)
        return dropped

    def first(self) -> Notice | None:
        return self._waiting[0] if self._waiting else None

    def remove(self, notice: Notice) -> None:
        """Removes a notice, which :meth:`put` may have dropped meanwhile."""
        if notice in self._waiting:
            self._waiting.remove(notice)

    def __len__(self) -> int:
        return len(self._waiting)

    def _least_important(self) -> list[Notice]:
        raised: dict[str, Notice] = {}
        for notice in self._waiting:
            key = notice.alert.key
            if notice.kind == "raised":
                raised.setdefault(key, notice)
            elif key in raised:
                return [raised[key], notice]
        return [next(iter(raised.values()), self._waiting[0])]
