"""Prometheus metrics of discovery."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

FORWARDED = Counter("pomona_discovery_beacons", "Beacons forwarded", ["service", "origin"])
DROPPED = Counter("pomona_discovery_dropped", "Beacons not forwarded", ["origin", "reason"])
PEERS = Gauge(
    "pomona_discovery_peers",
    "Peers: connected (sent to), heard (a beacon arrived within the lease)",
    ["state"],
)
CONFLICTS = Gauge("pomona_discovery_name_conflicts", "Service names that two live processes claim")
