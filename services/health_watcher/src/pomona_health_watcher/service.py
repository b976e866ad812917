"""The health watcher: beacons in, alerts out.

    beacons -> HealthRules -> conditions -> AlertDeduplication -> notices -> Notifier -> Slack, log

The first two decide and are pure; this module passes them the time and delivers the result.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from pomona.messages.control import Beacon, HealthWatcherFacts
from pomona.metrics_server import MetricsServer
from pomona.service import ControlPlane
from pomona_health_watcher import metrics
from pomona_health_watcher.alert_deduplication import AlertDeduplication
from pomona_health_watcher.conditions import Condition
from pomona_health_watcher.notice_queue import NoticeQueue
from pomona_health_watcher.notifier import Notifier
from pomona_health_watcher.rules import HealthRules
from pomona_health_watcher.settings import HealthWatcherSettings
from pomona_health_watcher.slack_message import heartbeat_message
from pomona_health_watcher.slack_webhook import SlackWebhook
from pomona_health_watcher.state_file import WatcherState, read_state, write_state

log = logging.getLogger(__name__)

EVALUATION_INTERVAL_S = 0.25
STATE_INTERVAL_S = 5.0
MAX_ALERTS_IN_BEACON = 128


async def serve(settings: HealthWatcherSettings, stop: asyncio.Event) -> None:
    """Runs the health watcher until ``stop`` is set."""
    webhook: SlackWebhook | None = None
    if settings.slack_webhook_url.get_secret_value():
        webhook = SlackWebhook(
            settings.slack_webhook_url, settings.post_deadline_s, settings.give_up_after_s
        )
    watcher = HealthWatcher(settings, webhook)
    metrics = MetricsServer(
        settings, "POMONA_HEALTH_WATCHER_METRICS_PORT", watcher.control.on_metrics_url
    )
    try:
        await watcher.run(stop)
    finally:
        if webhook is not None:
            await webhook.close()
        metrics.close()


class HealthWatcher:
    """Evaluates the rules of one cluster and delivers their alerts."""

    def __init__(self, settings: HealthWatcherSettings, webhook: SlackWebhook | None) -> None:
        name = f"{settings.node}.health_watcher"
        self._settings = settings
        self._webhook = webhook
        self.control = ControlPlane(settings, name, self._facts)
        self.control.on_beacon(self._on_beacon)
        self._path = settings.state_dir / f"{name}.json"
        former = read_state(self._path)
        unresolved = former.unresolved if former else ()
        known = former.expected_services(time.time()) if former else ()
        boot = self.control.identity.boot
        self._rules = HealthRules(
            name, boot, settings.node, settings.thresholds(), time.monotonic(), known
        )
        self._alerts = AlertDeduplication(settings.repeat_after_s, unresolved)
        self._notifier = Notifier(
            settings.cluster, webhook, NoticeQueue(settings.outbox_size), unresolved
        )
        self._written: WatcherState | None = None
        if former is not None and not former.clean:
            self._alerts.add_incident(_own_crash(name, settings.node, former.at), former.at)

    async def run(self, stop: asyncio.Event) -> None:
        """Watches until ``stop`` is set, then posts queued messages."""
        self._save(clean=False)
        tasks = [asyncio.create_task(self._notifier.run())]
        try:
            async with self.control.running():
                self.control.state = "ready"
                log.info("health watcher is ready", extra={"slack": self._webhook is not None})
                if self._webhook is not None and self._settings.heartbeat_s:
                    tasks.append(asyncio.create_task(self._post_heartbeats()))
                while not stop.is_set():
                    self._evaluate()
                    self._save(clean=False)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(EVALUATION_INTERVAL_S):
                            await stop.wait()
            await self._notifier.drain(self._settings.drain_deadline_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._save(clean=True)

    def _on_beacon(self, beacon: Beacon) -> None:
        lease = self.control.leases.get(beacon.name)
        if lease is not None:
            self._rules.on_lease(lease, time.monotonic())

    def _evaluate(self) -> None:
        now = time.monotonic()
        conditions = self._rules.evaluate(now)
        notices = self._alerts.update(conditions, now, time.time(), self._rules.settled(now))
        if not notices:
            return
        self._notifier.submit(notices)
        self.control.publish_now()
        active = self._alerts.active()
        for severity in ("warning", "critical"):
            count = sum(alert.severity == severity for alert in active)
            metrics.ACTIVE.labels(severity).set(count)

    async def _post_heartbeats(self) -> None:
        """Posts a heartbeat every ``heartbeat_s`` until cancelled."""
        while True:
            live = self._rules.live_services()
            message = heartbeat_message(
                self._settings.cluster,
                len({beacon.node for beacon in live}),
                len(live),
                len(self._alerts.active()),
            )
            try:
                await self._notifier.post_heartbeat(message)
            except Exception:
                log.exception("heartbeat cannot be posted")
            await asyncio.sleep(self._settings.heartbeat_s)

    def _save(self, clean: bool) -> None:
        """Writes the state file after every change, and every STATE_INTERVAL_S.

        The time in the file tells the next process when this one was last alive.
        """
        unresolved, known = self._notifier.unresolved(), tuple(self._rules.known_services())
        now, before = time.time(), self._written
        if (
            before is not None
            and (before.unresolved, before.known, before.clean) == (unresolved, known, clean)
            and 0 <= now - before.at < STATE_INTERVAL_S
        ):
            return
        self._written = WatcherState(now, clean, unresolved, known)
        write_state(self._path, self._written)

    def _facts(self) -> HealthWatcherFacts:
        return HealthWatcherFacts(alerts=tuple(self._alerts.active()[:MAX_ALERTS_IN_BEACON]))


def _own_crash(name: str, node: str, last_alive: float) -> Condition:
    away_s = max(0.0, time.time() - last_alive)
    return Condition(
        f"service_lost/{name}",
        "warning",
        f"health watcher {name} on node {node} died and was started again: the cluster was not "
        f"watched for up to {away_s:.0f} s.",
    )
