"""``pomona service``: renders the launchd units of the services from one table.

The units are LaunchDaemons. Those run without a login, and macOS grants them access to the local
network, which it may deny to a LaunchAgent. A unit contains no secret: it names the settings
file, which only the service account can read.
"""

from __future__ import annotations

import plistlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from pomona.errors import ConfigurationError
from pomona_gateway.settings import GatewaySettings
from pomona_health_watcher.settings import HealthWatcherSettings

Role = Literal["head", "worker"]

GATEWAY_DRAIN_S: Final[float] = GatewaySettings.model_fields["drain_deadline_s"].default
HEALTH_WATCHER_DRAIN_S: Final[float] = HealthWatcherSettings.model_fields[
    "drain_deadline_s"
].default
STOP_S: Final = 5.0
_MARGIN_S: Final = 10


@dataclass(frozen=True, slots=True)
class UnitDescription:
    """The properties of one service's unit.

    Attributes:
        service: its name; the label is ``com.pomona.`` and the name.
        roles: the kinds of node on which it runs.
        drain_s: seconds from SIGTERM to its end, at most.
        open_files: limit of sockets and files.
        process_type: launchd's ProcessType; ``Interactive`` is never throttled.
    """

    service: str
    roles: frozenset[Role]
    drain_s: float = STOP_S
    open_files: int = 4096
    process_type: Literal["Interactive", "Standard"] = "Standard"

    @property
    def label(self) -> str:
        return f"com.pomona.{self.service}"


_EVERY_NODE: Final[frozenset[Role]] = frozenset({"head", "worker"})
_HEAD: Final[frozenset[Role]] = frozenset({"head"})

UNITS: Final[Sequence[UnitDescription]] = (
    UnitDescription("discovery", _EVERY_NODE, process_type="Interactive"),
    UnitDescription("stage_worker", _EVERY_NODE, open_files=8192, process_type="Interactive"),
    UnitDescription("planner", _HEAD),
    UnitDescription(
        "gateway",
        _HEAD,
        drain_s=GATEWAY_DRAIN_S,
        open_files=16384,
        process_type="Interactive",
    ),
    UnitDescription("health_watcher", _HEAD, drain_s=HEALTH_WATCHER_DRAIN_S),
)


@dataclass(frozen=True, slots=True)
class UnitOptions:
    """The properties that differ between machines.

    Attributes:
        user: account that runs the services; it needs no password and no home.
        python: interpreter that has Pomona installed.
        settings: the file that POMONA_SETTINGS names.
        logs: folder that the account can write to.
    """

    user: str
    python: Path
    settings: Path
    logs: Path


def unit(description: UnitDescription, options: UnitOptions) -> dict[str, object]:
    """The property list of one service, as ``launchd.plist(5)`` describes it."""
    log = str(options.logs / f"{description.service}.log")
    return {
        "Label": description.label,
        "ProgramArguments": [str(options.python), "-I", "-m", f"pomona_{description.service}"],
        "UserName": options.user,
        "RunAtLoad": True,
        "KeepAlive": True,
        # A service that ran longer than this is restarted at once.
        "ThrottleInterval": 10,
        "ExitTimeOut": int(description.drain_s) + _MARGIN_S,
        "ProcessType": description.process_type,
        "EnvironmentVariables": {"POMONA_SETTINGS": str(options.settings)},
        "SoftResourceLimits": {"NumberOfFiles": description.open_files},
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "Umask": 0o027,
    }


def render(role: str, options: UnitOptions) -> dict[str, bytes]:
    """Returns the content of every unit of a role, by file name. Raises ConfigurationError."""
    if role not in get_args(Role):
        raise ConfigurationError(f"{role} is not a valid role: choose head or worker")
    for path in (options.python, options.settings, options.logs):
        if not path.is_absolute():
            raise ConfigurationError(f"{path} is not an absolute path, which launchd needs")
    return {
        f"{description.label}.plist": plistlib.dumps(unit(description, options))
        for description in UNITS
        if role in description.roles
    }


def write_units(role: str, options: UnitOptions, output: Path) -> list[Path]:
    """Writes the units of a role into a folder. Returns their paths."""
    units = render(role, options)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, content in units.items():
            (output / name).write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"{output} cannot be written: {error.strerror}") from error
    return [output / name for name in units]
