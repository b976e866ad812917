"""Settings of discovery: ``POMONA_DISCOVERY_*``, or the table ``[discovery]`` of the file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import orjson
from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from pomona.addresses import WILDCARD_HOSTS, is_loopback
from pomona.settings import SERVICES_BASE, ServiceSettings
from pomona_discovery.peer_table import MAX_PEERS, PEER_PATTERN

PeerEndpoint = Annotated[str, StringConstraints(pattern=PEER_PATTERN)]


class DiscoverySettings(ServiceSettings):
    """Settings of discovery."""

    model_config = SettingsConfigDict(
        env_prefix="POMONA_DISCOVERY_", frozen=True, extra="ignore", populate_by_name=True
    )
    section: ClassVar[str] = "discovery"

    peers: Annotated[tuple[PeerEndpoint, ...], NoDecode, Field(max_length=MAX_PEERS)] = ()
    """Discovery services of other nodes: ``host:port`` or ``tcp://host:port``, separated by
    commas or as a JSON list. Only one node of a pair needs it, and one known node leads to all."""
    peer_host: str = "127.0.0.1"
    """Address on which this service receives from other nodes; ``0.0.0.0`` is every address. The
    default limits the cluster to this machine."""
    peer_port: int = Field(default=SERVICES_BASE + 3, ge=0, le=65535)
    """Port of ``peer_host``; 0 takes a free one."""
    advertised_host: str = ""
    """Address or host name of this machine for other nodes. Default: ``peer_host``, or
    ``POMONA_DATA_HOST`` when that is every address."""

    mdns: bool = True
    """Finds nodes by multicast DNS too. No effect when ``peer_host`` is a loopback address."""
    macmon: bool = True
    """Reads power and temperature of a Mac by ``macmon``, where that is installed, every five
    minutes."""
    door_port: int = Field(default=SERVICES_BASE + 4, ge=0, le=65535)
    """Port of ``peer_host`` on which the head lets new nodes in; 0 takes a free one."""
    probe_port: int = Field(default=0, ge=0, le=65535)
    """Port on which other nodes measure the link to this one; 0 takes a free one."""

    end_silent: bool = False
    """End services of this node that have sent no beacon for some seconds. For nodes whose launchd
    or systemd starts them again; `pomona up` does so itself."""

    @field_validator("peers", mode="before")
    @classmethod
    def _split_peers(cls, value: Any) -> Any:
        if isinstance(value, str):
            text = value.strip()
            value = orjson.loads(text) if text.startswith("[") else text.split(",")
        if not isinstance(value, list | tuple):
            return value
        return [_endpoint(str(entry)) for entry in value if str(entry).strip()]

    probe_interval_s: float = Field(default=30.0, ge=1, le=3600)
    """Interval between two measurements of all links, seconds."""

    @model_validator(mode="after")
    def _check_hosts(self) -> Self:
        """Refuses a node of which other machines reach one half only."""
        if is_loopback(self.data_host) == self.is_local:
            return self
        if self.is_local:
            raise ValueError(
                f"POMONA_DATA_HOST is {self.data_host}, so other machines are to reach this node, "
                f"but POMONA_DISCOVERY_PEER_HOST is {self.peer_host}, which they cannot: set "
                "POMONA_DISCOVERY_PEER_HOST=0.0.0.0 too, or POMONA_DATA_HOST=127.0.0.1"
            )
        raise ValueError(
            f"POMONA_DISCOVERY_PEER_HOST is {self.peer_host}, so other machines are to reach this "
            f"node, but POMONA_DATA_HOST is {self.data_host}, which they cannot: set "
            "POMONA_DATA_HOST=0.0.0.0, or to this machine's address"
        )

    @property
    def is_local(self) -> bool:
        """True when other machines cannot reach this discovery service."""
        return is_loopback(self.peer_host)

    def advertised(self, bound: str, address: str = "") -> str:
        """Returns the endpoint for other nodes.

        Args:
            bound: endpoint that was bound.
            address: address of this machine to use when the settings have none.
        """
        host = self.advertised_host or self.peer_host
        if host in WILDCARD_HOSTS:
            local = self.data_host in WILDCARD_HOSTS or is_loopback(self.data_host)
            host = address if address and local else self.data_host
        return f"tcp://{host}:{bound.rpartition(':')[2]}"


def _endpoint(entry: str) -> str:
    entry = entry.strip()
    return entry if "://" in entry else f"tcp://{entry}"
