"""The ports of a cluster on one machine, derived from the gateway's."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from pomona.errors import ConfigurationError
from pomona.ports import BLOCK, services_base
from pomona.settings import DEFAULT_PORT

LOOPBACK = "127.0.0.1"
MAX_STAGES = 64
POLL_S = 0.1
LAST_FIRST_PORT = 65536 - BLOCK


@dataclass(frozen=True, slots=True)
class ClusterPorts:
    """Ports by service. ``first`` is the gateway's; the others are below those of clients."""

    first: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        if not 1024 <= self.first <= LAST_FIRST_PORT:
            raise ConfigurationError(
                f"{self.first} is not a valid first port: choose one from 1024 to {LAST_FIRST_PORT}"
            )

    @property
    def _base(self) -> int:
        return services_base(self.first)

    @property
    def gateway(self) -> int:
        return self.first

    @property
    def control_publish(self) -> int:
        return self._base + 1

    @property
    def control_subscribe(self) -> int:
        return self._base + 2

    @property
    def peer(self) -> int:
        return self._base + 3

    @property
    def door(self) -> int:
        return self._base + 4

    @property
    def discovery_metrics(self) -> int:
        return self._base + 10

    @property
    def planner_metrics(self) -> int:
        return self._base + 11

    @property
    def health_watcher_metrics(self) -> int:
        return self._base + 12

    def stage_worker_metrics(self, index: int) -> int:
        return self._base + 13 + index

    def by_use(self, stages: int) -> dict[str, int]:
        """Every port of a cluster with this many stage workers, by its use."""
        return {
            "the gateway": self.gateway,
            "discovery, for beacons in": self.control_publish,
            "discovery, for beacons out": self.control_subscribe,
            "discovery, for its peers": self.peer,
            "discovery, for machines that join": self.door,
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


def require_free(ports: ClusterPorts, stages: int, wait_s: float = 0.0) -> None:
    """Raises ConfigurationError that names each taken port, and the remedy.

    Args:
        wait_s: seconds for which taken ports are waited for.
    """
    ends_at = time.monotonic() + wait_s
    while taken := [
        f"{port} ({use})" for use, port in ports.by_use(stages).items() if not is_free(port)
    ]:
        if time.monotonic() < ends_at:
            time.sleep(POLL_S)
            continue
        raise ConfigurationError(
            f"in use by another process: port {', '.join(taken)}. If a cluster is running already "
            "(see `pomona status`), stop it, or choose other ports with --port."
        )
