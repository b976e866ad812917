"""Beacons of one node and its pipeline of two stages, for reports about a cluster."""

from __future__ import annotations

from pomona.messages.control import (
    Alert,
    Beacon,
    Facts,
    Pipeline,
    Stage,
    StageStatus,
    StageWorkerFacts,
)

PIPELINE = Pipeline(
    "tiny",
    "tiny.gguf",
    7,
    30,
    "active",
    (Stage("mac.w0", 0, 16, "tcp://h:2"), Stage("mac.w1", 16, 30, "tcp://h:3")),
)
ALERT = Alert("lost:mac.w1", "critical", "mac.w1 fell silent", 100.0)


def node_beacon(name: str, facts: Facts, boot: str = "b") -> Beacon:
    """Returns a ready beacon of a service of the node ``mac``."""
    return Beacon("c", f"mac.{name}", "mac", boot, 1, "1", 42, "ready", 0, 0, {}, facts)


def worker_beacon(
    name: str, start: int, stop: int, epoch: int = 7, loaded: int = 100, boot: str = "b"
) -> Beacon:
    """Returns the beacon of a worker that has loaded ``loaded`` of 100 bytes of its stage."""
    state = "ready" if loaded == 100 else "loading"
    status = StageStatus("tiny", epoch, start, stop, state, loaded, 100)
    speed = 9.5 if stop == 30 else 0.0
    facts = StageWorkerFacts("metal", 10, 500, (status,), tokens_per_second=speed)
    return node_beacon(name, facts, boot)
