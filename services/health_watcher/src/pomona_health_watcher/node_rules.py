"""Finds faults of machines: versions that differ, and disks that fill up. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pomona.messages.control import Beacon
from pomona.messages.discovery import DiscoveryFacts
from pomona_health_watcher.conditions import Condition

SKEW_AFTER_S: Final = 300.0
"""Seconds for which versions may differ, as they do while nodes are updated one by one."""
DISK_HYSTERESIS: Final = 0.02
"""Share of the disk above the threshold at which its alert ends, to avoid flapping."""


class NodeRules:
    """Compares the machines of the cluster with each other and with a threshold.

    Args:
        disk_free_warning: free share of a disk below which it is a warning; 0 for none.
    """

    def __init__(self, disk_free_warning: float) -> None:
        self._disk_free_warning = disk_free_warning
        self._full: set[str] = set()
        self._skewed_since: dict[str, float] = {}

    def evaluate(self, live: Iterable[Beacon], now: float) -> list[Condition]:
        """Returns the conditions that hold at ``now``, in monotonic seconds.

        Args:
            live: the newest beacon of every service that is not lost.
        """
        pomona: dict[str, set[str]] = defaultdict(set)
        macos: dict[str, set[str]] = defaultdict(set)
        found: list[Condition] = []
        for beacon in live:
            pomona[beacon.version].add(beacon.node)
            if isinstance(beacon.facts, DiscoveryFacts):
                hardware = beacon.facts.hardware
                if hardware.os_name == "macOS":
                    macos[hardware.os_version].add(beacon.node)
                found += self._disk(beacon.node, beacon.facts)
        found += self._skew("version_skew", "Pomona", pomona, now)
        found += self._skew("macos_skew", "macOS", macos, now)
        return found

    def _disk(self, node: str, facts: DiscoveryFacts) -> Iterator[Condition]:
        free, size = facts.machine.disk_free_bytes, facts.machine.disk_bytes
        if not size:
            return
        share = free / size
        limit = self._disk_free_warning + (DISK_HYSTERESIS if node in self._full else 0.0)
        if not self._disk_free_warning or share >= limit:
            self._full.discard(node)
            return
        self._full.add(node)
        yield Condition(
            f"disk/{node}",
            "warning",
            f"the disk of node {node} has {free / 1e9:.1f} GB free of {size / 1e9:.0f} GB "
            f"({share:.0%}).",
        )

    def _skew(
        self, kind: str, software: str, nodes: Mapping[str, set[str]], now: float
    ) -> Iterator[Condition]:
        if len(nodes) < 2:
            self._skewed_since.pop(kind, None)
            return
        age_s = now - self._skewed_since.setdefault(kind, now)
        if age_s < SKEW_AFTER_S:
            return
        versions = "; ".join(
            f"{version} on {', '.join(sorted(names))}" for version, names in sorted(nodes.items())
        )
        yield Condition(
            f"{kind}/cluster",
            "warning",
            f"{software} has different versions on the nodes: {versions}.",
            age_s=age_s,
        )
