"""``pomona service``: renders the launchd or systemd units of the services from one table.

The gateway's port is bound by launchd or systemd, which hands it on: clients wait while the gateway
restarts. Discovery ends services that have stopped sending beacons, so that they are started again.

Pomona is installed in ``/opt/pomona/<version>``, with ``current`` beside it as a link to the
version that runs, so that units, and permissions that macOS ties to a path, outlive an update.

On a Mac the units are LaunchDaemons. Those run without a login, and macOS grants them access to
the local network, which it may deny to a LaunchAgent. A unit contains no secret: it names the
settings file, which only the service account can read.
"""

from __future__ import annotations

import plistlib
import signal
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from pomona.errors import ConfigurationError
from pomona.exit_status import EXIT_CONFIGURATION
from pomona.former_end import FORMER_END_VARIABLE
from pomona.log_rotation import LOG_SUFFIX, PID_SUFFIX
from pomona.settings import DEFAULT_PORT
from pomona_gateway.listener import LAUNCHD_SOCKET
from pomona_gateway.settings import GatewaySettings
from pomona_health_watcher.settings import HealthWatcherSettings

Role = Literal["head", "worker"]
System = Literal["launchd", "systemd"]

PREFIX: Final = Path("/opt/pomona")
"""Folder of the installed versions."""
CURRENT: Final = "current"
ROTATED_KIB: Final = 10240
ROTATED_FILES: Final = 7
"""Size at which a log is rotated, and the number of rotated files that are kept."""
NEWSYSLOG_FILE: Final = "pomona.newsyslog.conf"
LOGROTATE_FILE: Final = "pomona.logrotate"

GATEWAY_HOST: Final[str] = GatewaySettings.model_fields["host"].default
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
        gateway_host, gateway_port: address of the API, which the unit binds.
    """

    user: str
    python: Path
    settings: Path
    logs: Path
    gateway_host: str = GATEWAY_HOST
    gateway_port: int = DEFAULT_PORT

    def environment(self, service: str) -> dict[str, str]:
        variables = {"POMONA_SETTINGS": str(self.settings)}
        if service == "discovery":
            variables["POMONA_DISCOVERY_END_SILENT"] = "true"
        return variables

    def command(self, service: str) -> list[str]:
        return [str(self.python), "-I", "-m", f"pomona_{service}"]


def gateway_address(settings: Path) -> tuple[str, int]:
    """Returns host and port of the API in a settings file, or the defaults where it has none.

    Raises ConfigurationError when the file is there but not valid.
    """
    try:
        found = tomllib.loads(settings.read_text()).get("gateway", {})
        return str(found.get("host", GATEWAY_HOST)), int(found.get("port", DEFAULT_PORT))
    except OSError:
        return GATEWAY_HOST, DEFAULT_PORT
    except (tomllib.TOMLDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{settings} cannot be read: {error}") from error


def installed_python(prefix: Path) -> Path:
    """Returns the interpreter of the version that ``current`` names."""
    return prefix / CURRENT / "bin" / "python"


def newsyslog(role: str, options: UnitOptions) -> str:
    """Returns the configuration of macOS's log rotation, as ``newsyslog.conf(5)`` describes it.

    It belongs into ``/etc/newsyslog.d``. J compresses; the signal makes a service reopen its log.
    """
    lines = ["# logfilename owner:group mode count size(KiB) when flags pid_file signal"]
    for description in UNITS:
        if role in description.roles:
            log = options.logs / f"{description.service}{LOG_SUFFIX}"
            lines.append(
                f"{log} {options.user}:{options.user} 640 {ROTATED_FILES} {ROTATED_KIB} * J "
                f"{log.with_suffix(PID_SUFFIX)} {signal.SIGHUP.value}"
            )
    return "\n".join(lines) + "\n"


def logrotate(options: UnitOptions) -> str:
    """Returns the same for Linux, as ``logrotate(8)`` describes it; for ``/etc/logrotate.d``."""
    return f"""{options.logs}/*{LOG_SUFFIX} {{
    size {ROTATED_KIB}k
    rotate {ROTATED_FILES}
    compress
    delaycompress
    missingok
    notifempty
    su {options.user} {options.user}
    create 0640 {options.user} {options.user}
    sharedscripts
    postrotate
        for file in {options.logs}/*{PID_SUFFIX}; do
            [ ! -e "$file" ] || kill -HUP "$(cat "$file")" || true
        done
    endscript
}}
"""


def unit(description: UnitDescription, options: UnitOptions) -> dict[str, object]:
    """The property list of one service, as ``launchd.plist(5)`` describes it."""
    log = str(options.logs / f"{description.service}.log")
    sockets: dict[str, object] = {}
    if description.service == "gateway":
        sockets = {
            "Sockets": {
                LAUNCHD_SOCKET: {
                    "SockNodeName": options.gateway_host,
                    "SockServiceName": str(options.gateway_port),
                    "SockType": "stream",
                }
            }
        }
    return sockets | {
        "Label": description.label,
        "ProgramArguments": options.command(description.service),
        "UserName": options.user,
        "RunAtLoad": True,
        # Starts it again unless its status is 0, which means a wrong setting: pomona.exit_status.
        "KeepAlive": {"SuccessfulExit": False},
        # A service that ran longer than this is restarted at once.
        "ThrottleInterval": 10,
        "ExitTimeOut": int(description.drain_s) + _MARGIN_S,
        "ProcessType": description.process_type,
        "EnvironmentVariables": options.environment(description.service),
        "SoftResourceLimits": {"NumberOfFiles": description.open_files},
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "Umask": 0o027,
    }


def systemd_units(description: UnitDescription, options: UnitOptions) -> dict[str, str]:
    """The unit files of one service by name, as ``systemd.service(5)`` and ``systemd.socket(5)``
    describe them."""
    service = description.service
    name = f"pomona-{service}"
    log = f"append:{options.logs / f'{service}.log'}"
    unit = {"Description": f"Pomona: {service}", "StartLimitIntervalSec": "0"}
    units: dict[str, str] = {}
    if service == "gateway":
        unit |= {"Requires": f"{name}.socket", "After": f"{name}.socket"}
        host = f"[{options.gateway_host}]" if ":" in options.gateway_host else options.gateway_host
        units[f"{name}.socket"] = _ini(
            ("Unit", {"Description": "Pomona: the port of the API"}),
            ("Socket", {"ListenStream": f"{host}:{options.gateway_port}", "Backlog": "2048"}),
            ("Install", {"WantedBy": "sockets.target"}),
        )
    variables = " ".join(f"{k}={v}" for k, v in options.environment(service).items())
    # `systemctl show` forgets how a process ended when the next one starts.
    end = options.logs / f"{service}.end"
    words = f"{FORMER_END_VARIABLE}=$$SERVICE_RESULT $$EXIT_CODE $$EXIT_STATUS"
    units[f"{name}.service"] = _ini(
        ("Unit", unit),
        (
            "Service",
            {
                "User": options.user,
                "ExecStart": " ".join(options.command(service)),
                "Environment": variables,
                "EnvironmentFile": f"-{end}",
                "ExecStartPost": f"/bin/rm -f {end}",
                "ExecStopPost": f"/bin/sh -c 'echo \"{words}\" >{end}'",
                "Restart": "always",
                "RestartSec": "0.2",
                "RestartPreventExitStatus": str(EXIT_CONFIGURATION),
                "TimeoutStopSec": str(int(description.drain_s) + _MARGIN_S),
                "KillMode": "mixed",
                "LimitNOFILE": str(description.open_files),
                "StandardOutput": log,
                "StandardError": log,
                "UMask": "0027",
            },
        ),
        ("Install", {"WantedBy": "multi-user.target"}),
    )
    return units


def _ini(*sections: tuple[str, dict[str, str]]) -> str:
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in entries.items())
        for name, entries in sections
    )


def render(role: str, options: UnitOptions, system: str = "launchd") -> dict[str, bytes]:
    """Returns the content of every unit of a role, by file name. Raises ConfigurationError."""
    if system not in get_args(System):
        raise ConfigurationError(f"{system} is not a valid system: choose launchd or systemd")
    if role not in get_args(Role):
        raise ConfigurationError(f"{role} is not a valid role: choose head or worker")
    for path in (options.python, options.settings, options.logs):
        if not path.is_absolute():
            raise ConfigurationError(f"{path} is not an absolute path, which {system} needs")
    if any(character.isspace() for character in f"{options.python}{options.logs}"):
        raise ConfigurationError("the paths of Python and the logs must not contain spaces")
    if system == "systemd":
        return {
            name: content.encode()
            for description in UNITS
            if role in description.roles
            for name, content in systemd_units(description, options).items()
        }
    return {
        f"{description.label}.plist": plistlib.dumps(unit(description, options))
        for description in UNITS
        if role in description.roles
    }


def write_units(
    role: str, options: UnitOptions, output: Path, system: str = "launchd"
) -> list[Path]:
    """Writes the units of a role, and the rotation of their logs, into a folder. Returns the paths
    of the units."""
    units = render(role, options, system)
    is_mac = system == "launchd"
    rotation = newsyslog(role, options) if is_mac else logrotate(options)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, content in units.items():
            (output / name).write_bytes(content)
        (output / (NEWSYSLOG_FILE if is_mac else LOGROTATE_FILE)).write_text(rotation)
    except OSError as error:
        raise ConfigurationError(f"{output} cannot be written: {error.strerror}") from error
    return [output / name for name in units]
