"""Metrics of the health watcher."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ACTIVE = Gauge("pomona_health_watcher_alerts_active", "Active alerts", ["severity"])
NOTICES = Counter("pomona_health_watcher_notices", "Alerts raised and resolved", ["kind"])
POSTS = Counter(
    "pomona_health_watcher_posts",
    "Messages by outcome: delivered, rejected (permanent), given_up, dropped (queue full)",
    ["outcome"],
)
RETRIES = Counter("pomona_health_watcher_post_retries", "Retried posts")
WAITING = Gauge("pomona_health_watcher_outbox", "Messages in the queue for Slack")
