"""The ports of a cluster on one machine, derived from the first one."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from pomona.errors import ConfigurationError
from pomona.settings import DEFAULT_PORT

LOOPBACK = "127.0.0.1"
MAX_STAGES = 64
BLOCK = 13 + MAX_STAGES
"""Number of ports that a cluster may use."""
LAST_FIRST_PORT = 65536 - BLOCK


@dataclass(frozen=True, slots=True)
class ClusterPorts:
    """Ports by service. ``first`` is the gateway's."""

    first: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        if not 1024 <= self.first <= LAST_FIRST_PORT:
            raise ConfigurationError(
                f"{self.first} is not a valid first port: choose one from 1024 to {LAST_FIRST_PORT}"
            )

    @property
    def gateway(self) -> int:
        return self.first

    @property
    def control_publish(self) -> int:
        return self.first + 1

    @property
    def control_subscribe(self) -> int:
        return self.first + 2

    @property
    def peer(self) -> int:
        return self.first + 3

    @property
    def discovery_metrics(self) -> int:
        return self.first + 10

    @property
    def planner_metrics(self) -> int:
        return self.first + 11

    @property
    def health_watcher_metrics(self) -> int:
        return self.first + 12

    def stage_worker_metrics(self, index: int) -> int:
        return self.first + 13 + index

    def by_use(self, stages: int) -> dict[str, int]:
        """Every port of a cluster with this many stage workers, by its use."""
        return {
            "the gateway": self.gateway,
            "discovery, for beacons in": self.control_publish,
            "discovery, for beacons out": self.control_subscribe,
            "discovery, for its peers": self.peer,
            "discovery's metrics": self.discovery_metrics,
            "the planner's metrics": self.planner_metrics,
            "the health watcher's metrics": self.health_watcher_metrics,
            **{
                f"the metrics of stage worker {index}": self.stage_worker_metrics(index)
                for index in range(stages)
            },
        }


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Returns True when a server can bind the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # The services also bind ports with connections in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def require_free(ports: ClusterPorts, stages: int) -> None:
    """Raises ConfigurationError that names each taken port, and the remedy."""
    taken = [f"{port} ({use})" for use, port in ports.by_use(stages).items() if not is_free(port)]
    if taken:
        raise ConfigurationError(
            f"in use by another process: port {', '.join(taken)}. If a cluster is running already "
            "(see `pomona status`), stop it, or choose other ports with --port."
        )
