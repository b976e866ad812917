"""Notices that wait to be posted: bounded, first in first out. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pomona_health_watcher.alert_deduplication import Notice


class NoticeQueue:
    """Keeps order, and when it is full gives up what is worth least.

    First an alert whose raise and resolution both still wait: nobody was told, and it is
    over. Then the oldest raise. A resolution of something that was told goes last.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: list[Notice] = []

    def put(self, notices: Iterable[Notice]) -> list[Notice]:
        """Add notices; those that had to be given up."""
        self._waiting += notices
        dropped: list[Notice] = []
        while len(self._waiting) > self._size:
            for notice in self._worth_least():
                self._waiting.remove(notice)
                dropped.append(notice)
        return dropped

    def first(self) -> Notice | None:
        return self._waiting[0] if self._waiting else None

    def done(self, notice: Notice) -> None:
        """The notice was posted, or never will be. It may have been given up meanwhile."""
        if notice in self._waiting:
            self._waiting.remove(notice)

    def __len__(self) -> int:
        return len(self._waiting)

    def _worth_least(self) -> list[Notice]:
        raised: dict[str, Notice] = {}
        for notice in self._waiting:
            key = notice.alert.key
            if notice.kind == "raised":
                raised.setdefault(key, notice)
            elif key in raised:
                return [raised[key], notice]
        return [next(iter(raised.values()), self._waiting[0])]
