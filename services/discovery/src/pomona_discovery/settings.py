"""Settings of discovery: ``POMONA_DISCOVERY_*``, or the table ``[discovery]`` of the file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import orjson
from pydantic import Field, StringConstraints, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from pomona.settings import DEFAULT_PORT, ServiceSettings
from pomona_discovery.mesh import MAX_PEERS, PEER_PATTERN

WILDCARDS = frozenset({"0.0.0.0", "*", "::", "[::]"})

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

    @field_validator("peers", mode="before")
    @classmethod
    def _split_peers(cls, value: Any) -> Any:
        if isinstance(value, str):
            text = value.strip()
            value = orjson.loads(text) if text.startswith("[") else text.split(",")
        if not isinstance(value, list | tuple):
            return value
        return [_endpoint(str(entry)) for entry in value if str(entry).strip()]

    def advertised(self, bound: str) -> str:
        """The endpoint that other nodes connect to. Args: bound: the one that was bound."""
        host = self.advertised_host or self.peer_host
        if host in WILDCARDS:
            host = self.data_host
        return f"tcp://{host}:{bound.rpartition(':')[2]}"


def _endpoint(entry: str) -> str:
    entry = entry.strip()
    return entry if "://" in entry else f"tcp://{entry}"
