"""Settings of the gateway, read once from ``POMONA_GATEWAY_*`` or the table ``[gateway]``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from pomona.settings import DEFAULT_PORT, ServiceSettings


class GatewaySettings(ServiceSettings):
    """What the gateway needs to know besides what every service does."""

    model_config = SettingsConfigDict(
        env_prefix="POMONA_GATEWAY_", frozen=True, extra="ignore", populate_by_name=True
    )
    section: ClassVar[str] = "gateway"

    host: str = "127.0.0.1"
    """Address on which the API listens."""
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port of the API; 0 takes a free one, which the beacon tells."""
    require_key: bool | None = None
    """Refuse requests without an API key. Default: unless only this machine reaches the API."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names by which the API may be asked, besides this machine's own names and plain
    addresses; ``*`` allows any."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may use the API; none by default."""
    tls_certificate: Path | None = None
    """File with the certificate chain (PEM); with ``tls_key`` the API speaks HTTPS."""
    tls_key: Path | None = None
    """File with the certificate's key (PEM)."""
    data_port: int = Field(default=0, ge=0, le=65535)
    """Port on which tokens arrive; 0 takes a free one."""

    max_body_bytes: int = Field(default=32 << 20, ge=1024, le=1 << 30)
    """Largest request body, in bytes; above it the answer is 413."""
    max_headers_bytes: int = Field(default=32 << 10, ge=1024, le=1 << 20)
    """Largest head of a request, its headers and its target, in bytes; above it the answer is
    431."""
    max_headers: int = Field(default=100, ge=8, le=10_000)
    """Most headers of a request; above it the answer is 431."""
    headers_deadline_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds a client may take from its connection, or from the first byte of a later
    request, to the end of the request's headers; and for a TLS handshake before them."""
    max_schema_bytes: int = Field(default=64 << 10, ge=256, le=512 << 10)
    """Largest JSON Schema, regular expression or list of choices that a reply may be held to,
    in characters."""
    max_schema_depth: int = Field(default=64, ge=4, le=128)
    """How deep objects and lists may be nested in such a schema."""
    grammar_deadline_s: float = Field(default=5.0, gt=0, le=60)
    """Seconds in which the grammar of a request must compile."""
    body_deadline_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds a client may take to send a request's body."""
    max_running: int = Field(default=1024, ge=1, le=65536)
    """Most sequences in the journal at once; above it the answer is 429."""
    stream_buffer_tokens: int = Field(default=1024, ge=16, le=1 << 20)
    """Tokens of each reply kept for a client that reads slower than the model writes; past
    it the request of that client is cancelled."""
    stall_deadline_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds a client may leave its stream unread before the connection is closed."""
    keep_alive_s: float = Field(default=5.0, gt=0, le=60)
    """Seconds between the comments that keep a waiting stream open."""

    load_on_request: bool = True
    """Load a model that the planner knows when somebody asks for it; the answer is 503 with
    Retry-After until it is there."""
    send_deadline_s: float = Field(default=3.0, gt=0, le=60)
    """Seconds the head of a pipeline may take to accept a message."""
    queue_deadline_s: float = Field(default=300.0, gt=0, le=86400)
    """Seconds a request may wait at the head before its prompt is begun."""
    first_token_deadline_s: float = Field(default=900.0, gt=0, le=86400)
    """Seconds from a request to its first token, queue and prompt included."""
    token_deadline_s: float = Field(default=120.0, gt=0, le=86400)
    """Seconds between two tokens of a reply, re-planning of the pipeline not included."""
    recovery_deadline_s: float = Field(default=60.0, gt=0, le=3600)
    """Seconds a running request waits for a pipeline that broke to come back."""
    max_attempts: int = Field(default=3, ge=1, le=16)
    """Epochs in which a request is tried before it fails."""
    drain_deadline_s: float = Field(default=20.0, gt=0, le=3600)
    """Seconds that running requests get to finish after SIGTERM."""
