"""Settings of discovery: ``POMONA_DISCOVERY_*``, or the table ``[discovery]`` of the file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import orjson
from pydantic import Field, StringConstraints, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from pomona.addresses import WILDCARD_HOSTS
from pomona.settings import DEFAULT_PORT, ServiceSettings
from pomona_discovery.peer_table import MAX_PEERS, PEER_PATTERN

PeerEndpoint = Annotated[str, StringConstraints(pattern=PEER_PATTERN)]


class DiscoverySettings(ServiceSettings):
    """What discovery needs to know beyond what every service does."""

    model_config = SettingsConfigDict(
        env_prefix="POMONA_DISCOVERY_", frozen=True, extra="ignore", populate_by_name=True
    )
    section: ClassVar[str] = "discovery"

    peers: Annotated[tuple[PeerEndpoint, ...], NoDecode, Field(max_length=MAX_PEERS)] = ()
    """Discovery services of other nodes: ``host:port`` or ``tcp://host:port``, separated by
    commas or as a JSON list. One side of a pair is enough; one known node leads to all."""
    peer_host: str = "127.0.0.1"
    """Address on which other nodes' discovery services are heard; ``0.0.0.0`` is every one.
    The default keeps a node to itself."""
    peer_port: int = Field(default=DEFAULT_PORT + 3, ge=0, le=65535)
    """Port beside it; 0 takes a free one."""
    advertised_host: str = ""
    """What other nodes connect to: an address or a host name of this machine. Default:
    ``peer_host``, or ``POMONA_DATA_HOST`` when that is every address."""

    mdns: bool = True
    """Whether nodes are found by multicast DNS too; not when ``peer_host`` is this machine."""
    probe_port: int = Field(default=0, ge=0, le=65535)
    """Port on which other nodes measure the way to this one; 0 takes a free one."""

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
    """Seconds between two measurements of the way to the other nodes."""

    @property
    def is_local(self) -> bool:
        """Whether other machines cannot reach this discovery service."""
        return self.peer_host == "localhost" or self.peer_host.startswith("127.")

    def advertised(self, bound: str, address: str = "") -> str:
        """The endpoint that other nodes connect to.

        Args:
            bound: the one that was bound.
            address: of this machine, for when the settings name none.
        """
        host = self.advertised_host or self.peer_host
        if host in WILDCARD_HOSTS:
            local = self.data_host in WILDCARD_HOSTS or self.data_host.startswith("127.")
            host = address if address and local else self.data_host
        return f"tcp://{host}:{bound.rpartition(':')[2]}"


def _endpoint(entry: str) -> str:
    entry = entry.strip()
    return entry if "://" in entry else f"tcp://{entry}"
