"""Complete beacons for tests, with fields that a test can override."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pomona import __version__
from pomona.messages.control import (
    Beacon,
    Facts,
    GatewayFacts,
    HealthWatcherFacts,
    PlannerFacts,
    ServiceName,
    StageWorkerFacts,
)
from pomona.messages.discovery import DiscoveryFacts, Hardware

GIB = 1 << 30
HARDWARE = Hardware("Apple M4 Pro", 14, 64 * GIB, 48 * GIB, "macOS", "26.2")


def facts_of(service: ServiceName, **fields: Any) -> Facts:
    """Returns facts of one kind of service. ``fields`` overrides the defaults."""
    base: dict[ServiceName, dict[str, Any]] = {
        "discovery": {"hardware": HARDWARE},
        "gateway": {"url": "http://127.0.0.1:1"},
        "stage_worker": {
            "device": "cpu",
            "usable_memory_bytes": 8 * GIB,
            "resident_bytes": GIB,
        },
    }
    kinds: dict[ServiceName, Callable[..., Facts]] = {
        "discovery": DiscoveryFacts,
        "planner": PlannerFacts,
        "gateway": GatewayFacts,
        "health_watcher": HealthWatcherFacts,
        "stage_worker": StageWorkerFacts,
    }
    return kinds[service](**{"service": service, **base.get(service, {}), **fields})


def beacon_of(
    service: ServiceName,
    node: str = "mac",
    *,
    boot: str = "boot1",
    seq: int = 1,
    facts: dict[str, Any] | None = None,
    **fields: Any,
) -> Beacon:
    """Returns a beacon of a service on ``node``. ``fields`` overrides the beacon's defaults."""
    base: dict[str, Any] = {
        "cluster": "pomona",
        "name": f"{node}.{service}",
        "node": node,
        "boot": boot,
        "seq": seq,
        "version": __version__,
        "pid": 4711,
        "state": "ready",
        "progress": 0,
        "queued": 0,
        "endpoints": {},
        "facts": facts_of(service, **(facts or {})),
    }
    return Beacon(**{**base, **fields})
