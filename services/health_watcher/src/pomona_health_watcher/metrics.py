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

# They exist from the start, so that a rate has a first value.
for _severity in ("warning", "critical"):
    ACTIVE.labels(_severity)
for _kind in ("raised", "resolved"):
    NOTICES.labels(_kind)
for _outcome in ("delivered", "rejected", "given_up", "dropped"):
    POSTS.labels(_outcome)
