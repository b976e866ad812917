"""The block of ports that one cluster on one machine takes, derived from its first."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from pomona.errors import ConfigurationError
from pomona.settings import DEFAULT_PORT

LOOPBACK = "127.0.0.1"
MAX_STAGES = 64
BLOCK = 13 + MAX_STAGES
"""Ports that a cluster may take."""
LAST_FIRST_PORT = 65536 - BLOCK


@dataclass(frozen=True, slots=True)
class ClusterPorts:
    """Ports by what listens there; ``first`` is the gateway's."""

    first: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        if not 1024 <= self.first <= LAST_FIRST_PORT:
            raise ConfigurationError(
                f"port {self.first} cannot be used: choose one from 1024 to {LAST_FIRST_PORT}"
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
        """Every port of a cluster with this many stage workers."""
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
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections of an earlier run in TIME_WAIT do not hinder the services either.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def require_free(ports: ClusterPorts, stages: int) -> None:
    """Raises ConfigurationError naming each taken port, and what to do."""
    taken = [f"{port} ({use})" for use, port in ports.by_use(stages).items() if not is_free(port)]
    if taken:
        raise ConfigurationError(
            f"in use by another process: port {', '.join(taken)}. Is a cluster running already? "
            "`pomona status` tells. Stop what holds the port, or choose others with --port."
        )
