"""Settings, read once from ``POMONA_*`` variables and the file named by ``POMONA_SETTINGS``.

Variables take precedence. The file is TOML: common settings at the top, one table per service. What
neither has may come from the state folder: :mod:`pomona.network_settings`.
"""

from __future__ import annotations

import os
import stat
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pomona.errors import ConfigurationError
from pomona.exit_status import EXIT_CONFIGURATION, exit_status
from pomona.network_settings import network_settings
from pomona.node_name import keep_node_name, node_name
from pomona.ports import services_base
from pomona.private_files import keep_private
from pomona.trust.trust import cluster_name

DEFAULT_CLUSTER = "pomona"
DEFAULT_PORT = 52415
"""Port of the gateway."""
SERVICES_BASE = services_base(DEFAULT_PORT)
"""Port below those of the other services: 22415."""


def _common(name: str) -> AliasChoices:
    """Returns the alias of a setting that all services read from one variable.

    There is no alias without the prefix: pydantic would read it from the environment too, and
    take another program's ``NODE`` or ``LOG_LEVEL``.
    """
    return AliasChoices(f"POMONA_{name}")


SettingName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

NodeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$")]
"""Leaves room for a service name like ``<node>.stage_worker.12`` in a beacon."""


class ServiceSettings(BaseSettings):
    """Settings of every service. Each service extends them."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)
    section: ClassVar[str] = ""

    state_dir: Path = Field(
        default_factory=lambda: default_state_dir(), validation_alias=_common("STATE_DIR")
    )
    """Folder for state that outlives a process, for example the newest epoch. Default:
    ``~/.pomona/<first port of the cluster>``."""
    cluster: SettingName = Field(
        default_factory=lambda fields: cluster_name(fields.get("state_dir")) or DEFAULT_CLUSTER,
        validation_alias=_common("CLUSTER"),
    )
    """Name of the cluster. Beacons of another cluster are dropped. Default: the name in the roster
    of the state folder, at the first start ``pomona``."""
    node: NodeName = Field(
        default_factory=lambda fields: node_name(fields.get("state_dir")),
        validation_alias=_common("NODE"),
    )
    """Name of this machine, unique in the cluster. Default: its host name at the first start,
    which the state folder keeps."""
    control_publish: str = Field(
        default=f"tcp://127.0.0.1:{SERVICES_BASE + 1}",
        validation_alias=_common("CONTROL_PUBLISH"),
    )
    """Endpoint of this node's discovery service to publish beacons to (XSUB)."""
    control_subscribe: str = Field(
        default=f"tcp://127.0.0.1:{SERVICES_BASE + 2}",
        validation_alias=_common("CONTROL_SUBSCRIBE"),
    )
    """Endpoint of this node's discovery service to receive beacons from (XPUB)."""
    data_host: str = Field(default="127.0.0.1", validation_alias=_common("DATA_HOST"))
    """Address of this node on which its links listen, and to which other nodes connect."""
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", validation_alias=_common("LOG_LEVEL")
    )
    metrics_host: str = Field(default="127.0.0.1", validation_alias=_common("METRICS_HOST"))
    """Address on which ``/metrics`` listens."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of ``/metrics``. 0 takes a free port, which the beacon states."""
    models_dir: Path | None = Field(default=None, validation_alias=_common("MODELS_DIR"))
    """Folder for models that are fetched. Default: ``~/.pomona/models``."""
    hf_home: Path | None = Field(default=None, validation_alias=_common("HF_HOME"))
    """Folder of the Hugging Face cache, as ``HF_HOME``, which takes precedence."""
    hf_token: SecretStr = Field(default=SecretStr(""), validation_alias=_common("HF_TOKEN"))
    """Token of the hub, as ``HF_TOKEN``, which takes precedence. A settings file that has it must
    be readable by its owner alone."""

    @property
    def trust_dir(self) -> Path:
        """State folder with the keys of this node, which all of its services share."""
        if "state_dir" in _read_section(self.section) and not os.environ.get("POMONA_STATE_DIR"):
            return ServiceSettings().state_dir
        return self.state_dir

    @model_validator(mode="before")
    @classmethod
    def _fill_state_dir(cls, values: dict[str, Any]) -> dict[str, Any]:
        if not values.keys() & {"state_dir", "POMONA_STATE_DIR"}:
            values = {**values, "state_dir": default_state_dir(cls.first_port(values))}
        folder = Path(values.get("POMONA_STATE_DIR", values.get("state_dir", "")))
        return {**network_settings(folder, cls.section), **values}

    @classmethod
    def first_port(cls, values: Mapping[str, Any]) -> int:
        """Returns the port that names the cluster's state folder: the one before that of
        ``control_publish``, and the gateway's for the default one."""
        given = values.get("control_publish", values.get("POMONA_CONTROL_PUBLISH", ""))
        port = str(given).rpartition(":")[2]
        base = int(port) - 1 if port.isascii() and port.isdecimal() else SERVICES_BASE
        return DEFAULT_PORT if base == SERVICES_BASE else base

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
            InitSettingsSource(settings_cls, _read_file(cls.section)),
        )


def default_state_dir(port: int = DEFAULT_PORT) -> Path:
    """Returns the state folder of the cluster with this first port, for every service and command
    to which no setting gives another."""
    return Path.home() / ".pomona" / str(port)


def has_state_dir(kind: type[ServiceSettings]) -> bool:
    """Tells whether ``POMONA_STATE_DIR`` or the settings file sets a service's state folder."""
    return bool(os.environ.get("POMONA_STATE_DIR")) or "state_dir" in _read_file(kind.section)


def _read_section(section: str) -> dict[str, Any]:
    """Returns a service's own table of the settings file."""
    found = _read_content().get(section, {}) if section else {}
    return found if isinstance(found, dict) else {}


def _read_file(section: str) -> dict[str, Any]:
    """Returns the settings of a service in the file, common ones included."""
    content = _read_content()
    common = {key: value for key, value in content.items() if not isinstance(value, dict)}
    return {**common, **content.get(section, {})}


def _read_content() -> dict[str, Any]:
    path = os.environ.get("POMONA_SETTINGS")
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"POMONA_SETTINGS={path} cannot be read: {error}") from error


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def read_settings(kind: type[SettingsT], **given: Any) -> SettingsT:
    """Reads the settings of a service. Raises ConfigurationError naming each invalid variable.

    Args:
        given: settings that come before all others, by name.
    """
    try:
        return kind(**given)
    except ValidationError as error:
        lines = [
            f"{_variable(kind, detail['loc'])}: {detail['msg']}"
            if detail["loc"]
            else detail["msg"].removeprefix("Value error, ")
            for detail in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError("settings are not valid: " + "; ".join(lines)) from error


def _variable(kind: type[ServiceSettings], location: tuple[int | str, ...]) -> str:
    """Returns the environment variable of a setting, from a validation error's location."""
    name = ".".join(map(str, location))
    if name.startswith("POMONA_"):
        return name
    return kind.model_config.get("env_prefix", "") + name.upper()


def apply_hub_settings(settings: ServiceSettings) -> None:
    """Sets the variables that the model store and huggingface_hub read, unless they are set.

    Raises ConfigurationError when others can read the settings file and it has the hub's token.
    """
    token = settings.hf_token.get_secret_value()
    path = Path(os.environ.get("POMONA_SETTINGS", ""))
    if token and not os.environ.get("POMONA_HF_TOKEN") and is_readable_by_others(path):
        raise ConfigurationError(
            f"{path} has hf_token, and other accounts can read it: run `chmod 600 {path}`, and "
            "let the service account own it"
        )
    values = {
        "POMONA_MODELS_DIR": str(settings.models_dir or ""),
        "HF_HOME": str(settings.hf_home or ""),
        "HF_TOKEN": token,
    }
    for name, value in values.items():
        if value:
            os.environ.setdefault(name, value)


def is_readable_by_others(path: Path) -> bool:
    """Tells whether accounts other than the owner of a file can read it."""
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False


def settings_or_exit(kind: type[SettingsT]) -> SettingsT:
    """Reads the settings of a service that starts, and keeps a default name of its node.

    Prints an error and exits with 78 (EX_CONFIG) when a setting is invalid.
    """
    try:
        settings = read_settings(kind)
        apply_hub_settings(settings)
        keep_private(settings.state_dir)
        if "node" in settings.model_fields_set:
            return settings
        return settings.model_copy(
            update={"node": keep_node_name(settings.state_dir, settings.node)}
        )
    except ConfigurationError as error:
        print(f"pomona: {error}", file=sys.stderr)
        raise SystemExit(exit_status(EXIT_CONFIGURATION)) from error
