"""Delivers notices: logs each, and posts it to Slack when a webhook is set."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from pomona.messages.control import Alert
from pomona_health_watcher import metrics
from pomona_health_watcher.alert_deduplication import Notice
from pomona_health_watcher.notice_queue import NoticeQueue
from pomona_health_watcher.slack_message import slack_message
from pomona_health_watcher.slack_webhook import SlackWebhook

log = logging.getLogger(__name__)

MAX_POSTS = 30
"""Posts within POSTS_WINDOW_S. A member whose services come and go makes many alerts."""
POSTS_WINDOW_S = 60.0


class Notifier:
    """Delivers one notice at a time, in order.

    Args:
        webhook: where to post; None logs only.
        unresolved: alerts that a former process delivered and did not resolve.
    """

    def __init__(
        self,
        cluster: str,
        webhook: SlackWebhook | None,
        queue: NoticeQueue,
        unresolved: Iterable[Alert] = (),
    ) -> None:
        self._cluster = cluster
        self._webhook = webhook
        self._queue = queue
        self._unresolved = {alert.key: alert for alert in unresolved}
        self._posted_at: deque[float] = deque()
        self._not_empty = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def unresolved(self) -> tuple[Alert, ...]:
        """Alerts whose raised notice was delivered and whose resolved notice was not."""
        return tuple(self._unresolved.values())

    def submit(self, notices: Iterable[Notice]) -> None:
        """Logs notices and queues them for :meth:`run`."""
        submitted = list(notices)
        for notice in submitted:
            _log(notice)
            metrics.NOTICES.labels(notice.kind).inc()
        if self._webhook is None:
            for notice in submitted:
                self._record(notice)
            return
        for notice in self._queue.put(submitted):
            metrics.POSTS.labels("dropped").inc()
            log.error("alert dropped, the queue for Slack is full: %s", notice.alert.key)
        self._queue_changed()

    async def run(self) -> None:
        """Posts queued notices until cancelled."""
        while True:
            await self._not_empty.wait()
            while (notice := self._queue.first()) is not None:
                if not await self._may_post():
                    continue
                try:
                    await self._post(notice)
                except Exception:
                    log.exception("alert cannot be posted: %s", notice.alert.key)
                    metrics.POSTS.labels("rejected").inc()
                self._queue.remove(notice)
                self._queue_changed()
            self._not_empty.clear()

    async def _may_post(self) -> bool:
        """Returns True when a post may be made now. Else waits for that, while notices queue up and
        those that are over drop out."""
        now = time.monotonic()
        while self._posted_at and now - self._posted_at[0] > POSTS_WINDOW_S:
            self._posted_at.popleft()
        if len(self._posted_at) < MAX_POSTS:
            self._posted_at.append(now)
            return True
        await asyncio.sleep(POSTS_WINDOW_S - (now - self._posted_at[0]) + 0.01)
        return False

    async def post_heartbeat(self, message: dict[str, Any]) -> None:
        """Posts a heartbeat. Skips it while alerts are queued, which show as much."""
        if self._webhook is None or len(self._queue) or not await self._may_post():
            return
        metrics.POSTS.labels(await self._webhook.post(message)).inc()

    async def drain(self, deadline_s: float) -> None:
        """Returns when the queue is empty or the deadline has passed."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._empty.wait()
        except TimeoutError:
            log.warning("stopped with %d alerts not posted to Slack", len(self._queue))

    async def _post(self, notice: Notice) -> None:
        if self._webhook is None:
            return
        before = self._webhook.retries
        outcome = await self._webhook.post(slack_message(notice, self._cluster))
        metrics.RETRIES.inc(self._webhook.retries - before)
        metrics.POSTS.labels(outcome).inc()
        if outcome != "given_up" or notice.kind == "raised":
            self._record(notice, delivered=outcome == "delivered")

    def _record(self, notice: Notice, delivered: bool = True) -> None:
        if notice.kind == "resolved":
            self._unresolved.pop(notice.alert.key, None)
        elif delivered:
            self._unresolved[notice.alert.key] = notice.alert

    def _queue_changed(self) -> None:
        waiting = len(self._queue)
        metrics.WAITING.set(waiting)
        if waiting:
            self._not_empty.set()
            self._empty.clear()
        else:
            self._empty.set()


def _log(notice: Notice) -> None:
    alert = notice.alert
    level = logging.INFO if notice.kind == "resolved" else logging.WARNING
    extra = {"alert": alert.key, "severity": alert.severity, "times": notice.times}
    log.log(level, "alert %s: %s", notice.kind, alert.summary, extra=extra)
