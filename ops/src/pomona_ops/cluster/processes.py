"""The processes of a cluster on this machine, with their environment variables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from pomona import host
from pomona.errors import ConfigurationError, ModelError
from pomona.models import resolve
from pomona.settings import (
    ServiceSettings,
    default_state_dir,
    has_state_dir,
    read_settings,
)
from pomona.trust import Trust
from pomona_discovery.settings import DiscoverySettings
from pomona_gateway.settings import GatewaySettings
from pomona_ops.cluster.blas import stage_worker_environment
from pomona_ops.cluster.cpu_affinity import shares
from pomona_ops.cluster.ports import LOOPBACK, MAX_STAGES, ClusterPorts

DEFAULT_STAGES: Final = 2
STOP_S = 10.0
AFTER_DRAIN_S = 10.0
"""Seconds between the end of the gateway's drain deadline and SIGKILL."""


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One process of the cluster.

    Attributes:
        name: unique among the processes; names the log file.
        command: program and arguments.
        environment: variables added to the supervisor's own.
        stop_rank: processes of the lowest rank are stopped first.
        stop_s: seconds from SIGTERM to SIGKILL.
        cores: CPU cores it is pinned to; empty leaves the choice to the system.
        listens: it is given the listening socket of the API.
        standby: another process with its modules imported waits to take its place.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict[str, str])
    stop_rank: int = 1
    stop_s: float = STOP_S
    cores: frozenset[int] = frozenset()
    listens: bool = False
    standby: bool = False


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Options of a cluster on this machine.

    Attributes:
        model: a name, a folder or a GGUF file.
        stages: stage workers to run, each with one stage.
        state_dir: folder for logs and for state that outlives a process.
        pin: pin each stage worker to cores of its own.
        role: ``worker`` for a machine whose head is another one.
        shared: other machines may be members, and every worker gets a stage.
        deterministic: replies do not depend on the requests beside them.
        group: rank processes that hold each stage of this machine together; None for the setting.
    """

    model: str
    stages: int
    ports: ClusterPorts
    state_dir: Path
    node: str
    cluster: str
    pin: bool = False
    role: Role = "head"
    shared: bool = False
    deterministic: bool = False
    group: int | None = None


Role = Literal["head", "worker"]


def cluster_options(
    model: str,
    stages: int | None,
    port: int,
    pin: bool = False,
    deterministic: bool = False,
    group: int | None = None,
) -> ClusterOptions:
    """Completes the command's arguments from the settings and the state folder.

    Args:
        stages: None for one stage worker where other machines have theirs, else two; one of a
            group.

    Raises ConfigurationError.
    """
    folder = state_dir(port)
    settings = read_settings(DiscoverySettings, state_dir=folder)
    shared = not settings.is_local
    # In a cluster of several machines, each has one stage worker.
    default = DEFAULT_STAGES if group is None else 1
    stages = 1 if shared else default if stages is None else stages
    if not 1 <= stages <= MAX_STAGES:
        raise ConfigurationError(
            f"{stages} is not a valid number of stages: choose 1 to {MAX_STAGES}"
        )
    if pin and not host.is_linux():
        raise ConfigurationError("--pin works on Linux only: macOS cannot pin a process to a core")
    role = node_role(folder)
    try:
        if role == "head":
            resolve(model)
    except ModelError as error:
        raise ConfigurationError(str(error)) from error
    path = Path(model).expanduser()
    return ClusterOptions(
        # The services read the path from another working directory.
        model=str(path.absolute()) if path.exists() else model,
        stages=stages,
        ports=ClusterPorts(port),
        state_dir=folder,
        node=settings.node,
        cluster=settings.cluster,
        pin=pin,
        role=role,
        shared=shared,
        deterministic=deterministic,
        group=group,
    )


def node_role(folder: Path) -> Role:
    """Returns what this machine is in its cluster.

    Raises ConfigurationError when it was revoked.
    """
    trust = Trust.load(folder)
    if trust is None or trust.has_cluster_key:
        return "head"
    if trust.member is None:
        raise ConfigurationError(
            f"this machine is no longer a member of {trust.roster.name}: join again with "
            "`pomona join`, or start a cluster of its own after `pomona keys new`"
        )
    return "worker"


def state_dir(port: int, kind: type[ServiceSettings] = ServiceSettings) -> Path:
    """State folder of the cluster with this first port.

    It is ``~/.pomona/<port>``, unless ``POMONA_STATE_DIR`` or the settings file sets another.

    Args:
        kind: the service whose folder it is; the settings file may set one for each service.
    """
    return read_settings(kind).state_dir if has_state_dir(kind) else default_state_dir(port)


def gateway_url(port: int) -> str:
    """URL at which this machine reaches the gateway of the cluster with this first port."""
    settings = read_settings(GatewaySettings)
    host = {"0.0.0.0": LOOPBACK, "::": "[::1]"}.get(settings.host, settings.host)
    return f"{'https' if settings.tls_certificate else 'http'}://{host}:{port}"


def with_standbys(specs: Iterable[ServiceSpec]) -> list[ServiceSpec]:
    """Gives the gateway and the stage workers a standby: clients wait for their restart."""
    return [
        replace(spec, standby=spec.listens or spec.name.startswith("stage_worker"))
        for spec in specs
    ]


def service_specs(options: ClusterOptions) -> list[ServiceSpec]:
    """The processes of a cluster, in the order of their start."""
    ports = options.ports
    common = {
        "POMONA_CLUSTER": options.cluster,
        "POMONA_NODE": options.node,
        "POMONA_STATE_DIR": str(options.state_dir),
        "POMONA_CONTROL_PUBLISH": f"tcp://{LOOPBACK}:{ports.control_publish}",
        "POMONA_CONTROL_SUBSCRIBE": f"tcp://{LOOPBACK}:{ports.control_subscribe}",
    }
    discovery = ServiceSpec(
        "discovery",
        _command("discovery"),
        common
        | {
            "POMONA_DISCOVERY_PEER_PORT": str(ports.peer),
            "POMONA_DISCOVERY_DOOR_PORT": str(ports.door),
            "POMONA_DISCOVERY_METRICS_PORT": str(ports.discovery_metrics),
        },
        stop_rank=2,
    )
    planner = ServiceSpec(
        "planner",
        _command("planner"),
        common
        | {
            "POMONA_PLANNER_MODELS": json.dumps([options.model]),
            "POMONA_PLANNER_STAGES": "0" if options.shared else str(options.stages),
            "POMONA_PLANNER_SPREAD": str(options.shared).lower(),
            "POMONA_PLANNER_METRICS_PORT": str(ports.planner_metrics),
        },
    )
    gateway = ServiceSpec(
        "gateway",
        _command("gateway"),
        common | {"POMONA_GATEWAY_PORT": str(ports.gateway)},
        stop_rank=0,
        stop_s=read_settings(GatewaySettings).drain_deadline_s + AFTER_DRAIN_S,
        listens=True,
    )
    health_watcher = ServiceSpec(
        "health_watcher",
        _command("health_watcher"),
        common | {"POMONA_HEALTH_WATCHER_METRICS_PORT": str(ports.health_watcher_metrics)},
    )
    workers = [_stage_worker(options, index, common) for index in range(options.stages)]
    if options.role == "worker":
        return [discovery, *workers]
    return [discovery, *workers, planner, gateway, health_watcher]


def _command(service: str) -> tuple[str, ...]:
    # -I keeps the caller's Python variables and working directory out of the process.
    return (sys.executable, "-I", "-m", f"pomona_{service}")


def _stage_worker(options: ClusterOptions, index: int, common: dict[str, str]) -> ServiceSpec:
    deterministic = {"POMONA_STAGE_WORKER_DETERMINISTIC": "true"} if options.deterministic else {}
    return ServiceSpec(
        f"stage_worker.{index}",
        _command("stage_worker"),
        common
        | stage_worker_environment(options.stages)
        | deterministic
        | ({} if options.group is None else {"POMONA_STAGE_WORKER_GROUP": str(options.group)})
        | {
            "POMONA_STAGE_WORKER_NAME": f"{options.node}.stage_worker.{index}",
            "POMONA_STAGE_WORKER_METRICS_PORT": str(options.ports.stage_worker_metrics(index)),
        },
        cores=shares(options.stages)[index] if options.pin else frozenset(),
    )
