"""Settings: read once, from ``POMONA_*`` variables or the file that ``POMONA_SETTINGS``
names, then immutable. Variables win over the file.

The file is TOML: settings of every service at the top, one table per service below.
"""

from __future__ import annotations

import os
import socket
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AliasChoices, Field, StringConstraints, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pomona.errors import ConfigurationError

DEFAULT_PORT = 52415


def default_node() -> str:
    """The host's first name, with what a name may not hold replaced."""
    first = socket.gethostname().split(".")[0] or "node"
    cleaned = "".join(c if c.isalnum() or c in "._-" else "-" for c in first)
    return cleaned.lstrip("._-")[:48] or "node"


def _shared(name: str) -> AliasChoices:
    """A setting that every service reads from one variable.

    The variable is the only alias: an alias without the prefix would be read from the
    environment too, and ``NODE`` or ``LOG_LEVEL`` of somebody else taken for ours.
    """
    return AliasChoices(f"POMONA_{name}")


SettingName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

NodeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$")]
"""Short enough that a service's name, such as ``<node>.stage_worker.12``, fits a beacon."""


class ServiceSettings(BaseSettings):
    """What every service needs to know. A service adds its own."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)
    section: ClassVar[str] = ""

    cluster: SettingName = Field(default="pomona", validation_alias=_shared("CLUSTER"))
    """Name of the cluster; beacons of another cluster are dropped."""
    node: NodeName = Field(default_factory=default_node, validation_alias=_shared("NODE"))
    """Name of this machine, unique in the cluster. Default: its host name."""
    control_publish: str = Field(
        default=f"tcp://127.0.0.1:{DEFAULT_PORT + 1}",
        validation_alias=_shared("CONTROL_PUBLISH"),
    )
    """Where this node's discovery service takes beacons in (XSUB)."""
    control_subscribe: str = Field(
        default=f"tcp://127.0.0.1:{DEFAULT_PORT + 2}",
        validation_alias=_shared("CONTROL_SUBSCRIBE"),
    )
    """Where this node's discovery service gives beacons out (XPUB)."""
    data_host: str = Field(default="127.0.0.1", validation_alias=_shared("DATA_HOST"))
    """Address of this node on which its links listen, and which other nodes connect to."""
    state_dir: Path = Field(default=Path.home() / ".pomona", validation_alias=_shared("STATE_DIR"))
    """Folder for what must outlive a process, such as the newest epoch."""
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", validation_alias=_shared("LOG_LEVEL")
    )
    metrics_host: str = Field(default="127.0.0.1", validation_alias=_shared("METRICS_HOST"))
    """Address on which ``/metrics`` listens."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of ``/metrics``; 0 takes a free one, which the beacon tells."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            InitSettingsSource(settings_cls, _from_file(cls.section)),
        )


def _from_file(section: str) -> dict[str, Any]:
    path = os.environ.get("POMONA_SETTINGS")
    if not path:
        return {}
    try:
        content = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"POMONA_SETTINGS={path} cannot be read: {error}") from error
    common = {key: value for key, value in content.items() if not isinstance(value, dict)}
    return {**common, **content.get(section, {})}


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def read_settings(kind: type[SettingsT]) -> SettingsT:
    """Read the settings of a service. Raises ConfigurationError naming what is wrong."""
    try:
        return kind()
    except ValidationError as error:
        lines = [
            f"{_variable(kind, detail['loc'])}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError("settings cannot be used: " + "; ".join(lines)) from error


def _variable(kind: type[ServiceSettings], place: tuple[int | str, ...]) -> str:
    """The variable that a validation error is about, however the setting was given."""
    name = ".".join(map(str, place))
    if name.startswith("POMONA_"):
        return name
    return kind.model_config.get("env_prefix", "") + name.upper()


def settings_or_exit(kind: type[SettingsT]) -> SettingsT:
    """Read the settings of a service; say what is wrong and exit with 78 (EX_CONFIG)."""
    try:
        return read_settings(kind)
    except ConfigurationError as error:
        print(f"pomona: {error}", file=sys.stderr)
        raise SystemExit(78) from error
