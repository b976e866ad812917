"""What the health watcher counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ACTIVE = Gauge("pomona_health_watcher_alerts_active", "Alerts that are wrong now", ["severity"])
NOTICES = Counter("pomona_health_watcher_notices", "Alerts raised and resolved", ["kind"])
POSTS = Counter(
    "pomona_health_watcher_posts",
    "Messages by outcome: delivered, rejected (permanent), given_up, dropped (outbox full)",
    ["outcome"],
)
RETRIES = Counter("pomona_health_watcher_post_retries", "Attempts that were tried again")
WAITING = Gauge("pomona_health_watcher_outbox", "Messages that wait to be posted")
