"""Brings notices to people: each is logged, and posted when there is a webhook."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from pomona.messages.control import Alert
from pomona_health_watcher import metrics
from pomona_health_watcher.alert_deduplication import Notice
from pomona_health_watcher.notice_queue import NoticeQueue
from pomona_health_watcher.slack_message import slack_message
from pomona_health_watcher.slack_webhook import SlackWebhook

log = logging.getLogger(__name__)


class Notifier:
    """One at a time, in order.

    Args:
        webhook: where to post; None logs only.
        told: alerts that were told by a former process and not resolved.
    """

    def __init__(
        self,
        cluster: str,
        webhook: SlackWebhook | None,
        outbox: NoticeQueue,
        told: Iterable[Alert] = (),
    ) -> None:
        self._cluster = cluster
        self._webhook = webhook
        self._outbox = outbox
        self._told = {alert.key: alert for alert in told}
        self._news = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def told(self) -> tuple[Alert, ...]:
        """Alerts that people know of, and whose resolution they do not know yet."""
        return tuple(self._told.values())

    def take(self, notices: Iterable[Notice]) -> None:
        """Log notices, and bring them when their turn comes."""
        taken = list(notices)
        for notice in taken:
            _log(notice)
            metrics.NOTICES.labels(notice.kind).inc()
        if self._webhook is None:
            for notice in taken:
                self._remember(notice)
            return
        for notice in self._outbox.put(taken):
            metrics.POSTS.labels("dropped").inc()
            log.error("alert given up, too many wait: %s", notice.alert.key)
        self._changed()

    async def run(self) -> None:
        """Post what waits, until cancelled."""
        while True:
            await self._news.wait()
            while (notice := self._outbox.first()) is not None:
                try:
                    await self._bring(notice)
                except Exception:
                    log.exception("alert cannot be posted: %s", notice.alert.key)
                    metrics.POSTS.labels("rejected").inc()
                self._outbox.done(notice)
                self._changed()
            self._news.clear()

    async def drain(self, deadline_s: float) -> None:
        """Wait until everything was brought, or the deadline passes."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._empty.wait()
        except TimeoutError:
            log.warning("stopped while %d alerts still waited for Slack", len(self._outbox))

    async def _bring(self, notice: Notice) -> None:
        if self._webhook is None:
            return
        before = self._webhook.retries
        outcome = await self._webhook.post(slack_message(notice, self._cluster))
        metrics.RETRIES.inc(self._webhook.retries - before)
        metrics.POSTS.labels(outcome).inc()
        if outcome != "given_up" or notice.kind == "raised":
            self._remember(notice, delivered=outcome == "delivered")

    def _remember(self, notice: Notice, delivered: bool = True) -> None:
        if notice.kind == "resolved":
            self._told.pop(notice.alert.key, None)
        elif delivered:
            self._told[notice.alert.key] = notice.alert

    def _changed(self) -> None:
        waiting = len(self._outbox)
        metrics.WAITING.set(waiting)
        if waiting:
            self._news.set()
            self._empty.clear()
        else:
            self._empty.set()


def _log(notice: Notice) -> None:
    alert = notice.alert
    level = logging.INFO if notice.kind == "resolved" else logging.WARNING
    extra = {"alert": alert.key, "severity": alert.severity, "times": notice.times}
    log.log(level, "alert %s: %s", notice.kind, alert.summary, extra=extra)
