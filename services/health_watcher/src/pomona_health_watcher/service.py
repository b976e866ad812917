"""The health watcher: beacons in, alerts out. It never heals.

    beacons -> HealthRules -> conditions -> AlertBook -> notices -> Courier -> Slack, log

Rules and book decide and are pure; this module gives them the time and obeys them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from pomona.messages.control import Beacon, HealthWatcherFacts
from pomona.service import ControlPlane, start_metrics
from pomona_health_watcher import metrics
from pomona_health_watcher.alert_deduplication import AlertDeduplication
from pomona_health_watcher.notice_queue import NoticeQueue
from pomona_health_watcher.notifier import Notifier
from pomona_health_watcher.rules import Condition, HealthRules
from pomona_health_watcher.settings import HealthWatcherSettings
from pomona_health_watcher.slack_webhook import SlackWebhook
from pomona_health_watcher.state_file import WatcherState, read_state, write_state

log = logging.getLogger(__name__)

JUDGE_INTERVAL_S = 0.25
SIGN_OF_LIFE_S = 5.0
MAX_ALERTS_TOLD = 128


async def serve(settings: HealthWatcherSettings, stop: asyncio.Event) -> None:
    """Run the health watcher until ``stop`` is set."""
    url, stop_metrics = start_metrics(settings, "POMONA_HEALTH_WATCHER_METRICS_PORT")
    webhook: SlackWebhook | None = None
    if settings.slack_webhook_url.get_secret_value():
        webhook = SlackWebhook(
            settings.slack_webhook_url, settings.post_deadline_s, settings.give_up_after_s
        )
    try:
        await HealthWatcher(settings, webhook, url).run(stop)
    finally:
        if webhook is not None:
            await webhook.close()
        stop_metrics()


class HealthWatcher:
    """The rules of one cluster at work."""

    def __init__(
        self, settings: HealthWatcherSettings, webhook: SlackWebhook | None, metrics_url: str
    ) -> None:
        name = f"{settings.node}.health_watcher"
        self._settings = settings
        self.control = ControlPlane(settings, name, self._facts, {"metrics": metrics_url})
        self.control.on_beacon(self._hear)
        self._path = settings.state_dir / f"{name}.json"
        former = read_state(self._path)
        told = former.told if former else ()
        known = former.expected(time.time()) if former else ()
        boot = self.control.identity.boot
        self._rules = HealthRules(
            name, boot, settings.node, settings.limits(), time.monotonic(), known
        )
        self._book = AlertDeduplication(settings.repeat_after_s, told)
        self._courier = Notifier(settings.cluster, webhook, NoticeQueue(settings.outbox_size), told)
        self._kept: WatcherState | None = None
        if former is not None and not former.clean:
            self._book.note(_own_loss(name, settings.node, former.at), former.at)

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until ``stop`` is set; then post what waits, and say goodbye."""
        self._keep(clean=False)
        posting = asyncio.create_task(self._courier.run())
        try:
            async with self.control.running():
                self.control.state = "ready"
                log.info("health watcher is ready", extra={"slack": self._posts()})
                while not stop.is_set():
                    self._judge()
                    self._keep(clean=False)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(JUDGE_INTERVAL_S):
                            await stop.wait()
            await self._courier.drain(self._settings.drain_deadline_s)
        finally:
            posting.cancel()
            await asyncio.gather(posting, return_exceptions=True)
        self._keep(clean=True)

    def _posts(self) -> bool:
        return bool(self._settings.slack_webhook_url.get_secret_value())

    def _hear(self, beacon: Beacon) -> None:
        lease = self.control.leases.get(beacon.name)
        if lease is not None:
            for incident in self._rules.on_lease(lease, time.monotonic()):
                self._book.note(incident, time.time())

    def _judge(self) -> None:
        now = time.monotonic()
        conditions = self._rules.judge(now)
        notices = self._book.observe(conditions, now, time.time(), self._rules.settled(now))
        if not notices:
            return
        self._courier.take(notices)
        self.control.publish_now()
        active = self._book.active()
        for severity in ("warning", "critical"):
            count = sum(alert.severity == severity for alert in active)
            metrics.ACTIVE.labels(severity).set(count)

    def _keep(self, clean: bool) -> None:
        """Keep what a successor needs: at every change, and as a sign of life."""
        told, known = self._courier.told(), tuple(self._rules.known())
        now, kept = time.time(), self._kept
        same = kept is not None and (kept.told, kept.known, kept.clean) == (told, known, clean)
        if same and kept is not None and 0 <= now - kept.at < SIGN_OF_LIFE_S:
            return
        self._kept = WatcherState(now, clean, told, known)
        write_state(self._path, self._kept)

    def _facts(self) -> HealthWatcherFacts:
        alerts = tuple(self._book.active()[:MAX_ALERTS_TOLD])
        return HealthWatcherFacts(alerts=alerts)


def _own_loss(name: str, node: str, last_sign: float) -> Condition:
    away = max(0.0, time.time() - last_sign)
    return Condition(
        f"service_lost/{name}",
        "warning",
        f"health watcher {name} on node {node} died and was started again: for up to "
        f"{away:.0f} s nobody watched the cluster.",
    )
