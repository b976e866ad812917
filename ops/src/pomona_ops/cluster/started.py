"""Records the clusters that ``pomona up`` starts, so that other commands find them.

The folder ``~/.pomona/clusters`` has one file for each first port. A command without ``--port``
uses the newest cluster that still runs, else the newest of all.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil
from pydantic import TypeAdapter, ValidationError

from pomona.settings import DEFAULT_PORT, ServiceSettings, has_state_dir, read_settings
from pomona.transport import use
from pomona.trust import Trust
from pomona_ops.cluster.ports import LOOPBACK, ClusterPorts
from pomona_ops.cluster.processes import ClusterOptions, state_dir

SAME_START_S = 1.0
"""Seconds by which two readings of a process's start may differ."""


@dataclass(frozen=True, slots=True)
class StartedCluster:
    """A cluster that ``pomona up`` started.

    Attributes:
        pid, started_at: process of ``up`` and its start, Unix time in seconds.
    """

    port: int
    cluster: str
    state_dir: str
    pid: int
    started_at: float

    def runs(self) -> bool:
        """Returns True while its ``up`` runs."""
        try:
            created = psutil.Process(self.pid).create_time()
        except psutil.Error:
            return False
        return abs(created - self.started_at) < SAME_START_S


@dataclass(frozen=True, slots=True)
class Target:
    """The cluster that a command talks to.

    Attributes:
        endpoint: where its beacons are received.
        node: name of this machine.
    """

    port: int
    cluster: str
    endpoint: str
    state_dir: Path
    node: str = ""


_RECORD = TypeAdapter(StartedCluster)


def record_start(options: ClusterOptions) -> None:
    """Records a cluster that this process starts. A folder that is not writable is no error."""
    process = psutil.Process()
    record = StartedCluster(
        options.ports.first,
        options.cluster,
        str(options.state_dir),
        process.pid,
        process.create_time(),
    )
    path = _folder() / f"{record.port}.json"
    fresh = path.with_suffix(f".{os.getpid()}.new")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(orjson.dumps(record))
        fresh.replace(path)


def started_clusters() -> list[StartedCluster]:
    """Returns every recorded cluster, running ones first, newest first among each."""
    found: list[StartedCluster] = []
    for path in _folder().glob("*.json"):
        with suppress(OSError, ValidationError):
            found.append(_RECORD.validate_json(path.read_bytes()))
    return sorted(found, key=lambda x: (x.runs(), x.started_at), reverse=True)


def find_port(port: int | None) -> int:
    """Returns the first port that a command uses: ``port``, else that of the last cluster."""
    if port is not None:
        return port
    return next((x.port for x in started_clusters()), DEFAULT_PORT)


def find_target(port: int | None) -> Target:
    """Finds the cluster that a command talks to.

    ``port`` comes first, then the settings (``POMONA_CONTROL_SUBSCRIBE``, ``POMONA_CLUSTER``,
    ``POMONA_STATE_DIR``), then what ``up`` recorded. The process has the keys of its node from then
    on. Raises ConfigurationError, and TrustError for keys that cannot be used.
    """
    settings = read_settings(ServiceSettings)
    given = settings.model_fields_set
    first = find_port(port)
    endpoint = f"tcp://{LOOPBACK}:{ClusterPorts(first).control_subscribe}"
    if port is None and "control_subscribe" in given:
        endpoint = settings.control_subscribe
    record = _record_of(first)
    folder = find_state_dir(first)
    own = read_settings(ServiceSettings, state_dir=folder)
    trust = Trust.load(folder)
    use(trust)
    is_known = record is None or "cluster" in given or trust is not None
    return Target(
        port=first,
        cluster=own.cluster if is_known or record is None else record.cluster,
        endpoint=endpoint,
        state_dir=folder,
        node=own.node,
    )


def find_state_dir(port: int, kind: type[ServiceSettings] = ServiceSettings) -> Path:
    """Returns the state folder of the cluster with this first port.

    Args:
        kind: the service whose folder it is; the settings file may set one for each service.
    """
    record = _record_of(port)
    if record is None or has_state_dir(kind):
        return state_dir(port, kind)
    return Path(record.state_dir)


def _record_of(port: int) -> StartedCluster | None:
    return next((x for x in started_clusters() if x.port == port), None)


def _folder() -> Path:
    return Path.home() / ".pomona" / "clusters"
