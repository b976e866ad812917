"""Nodes that an administrator has drained, whose silence is no fault. Pure.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pomona.cluster_report import newest_drains
from pomona.messages.control import Beacon
from pomona_health_watcher.conditions import Condition

RETURN_S: Final = 30.0
"""Seconds after a drain in which the node's services may still be starting."""
SILENT: Final = ("service_lost", "node_lost", "node_restarted", "local_network")
"""Kinds of alerts that say nothing while a node is drained."""


class DrainedNodes:
    """Follows the drains in the planners' beacons."""

    def __init__(self) -> None:
        self._quiet_until: dict[str, float] = {}
        self._is_unserved = False

    def update(self, beacons: Iterable[Beacon], now: float) -> None:
        """Reads the newest beacons of all services."""
        drains = [drain for drain in newest_drains(beacons) if drain.is_in_force]
        for drain in drains:
            self._quiet_until[drain.node] = now + RETURN_S
        self._is_unserved = any(drain.reason for drain in drains)
        for name in [name for name, until in self._quiet_until.items() if until < now]:
            del self._quiet_until[name]

    def includes(self, beacon: Beacon) -> bool:
        """Returns whether the service's node, or the service itself, is or was just drained."""
        return beacon.node in self._quiet_until or beacon.name in self._quiet_until

    def is_expected(self, condition: Condition, nodes: dict[str, str]) -> bool:
        """Returns whether a condition follows from a drain.

        Args:
            nodes: node of each service, by the service's name.
        """
        kind, _, subject = condition.key.partition("/")
        if kind == "pipeline":
            return self._is_unserved
        names = {subject, nodes.get(subject, subject)}
        return kind in SILENT and not names.isdisjoint(self._quiet_until)
