"""Settings of the gateway, from ``POMONA_GATEWAY_*`` variables or the table ``[gateway]``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from pomona.settings import DEFAULT_PORT, ServiceSettings
from pomona_gateway.text.system_lines import DROPPED, MOVED


def _is_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a valid regular expression: {error}") from error
    return pattern


Pattern: TypeAlias = Annotated[str, AfterValidator(_is_pattern)]
"""A regular expression of Python."""


class GatewaySettings(ServiceSettings):
    """Settings of the gateway, beside those of every service."""

    model_config = SettingsConfigDict(
        env_prefix="POMONA_GATEWAY_", frozen=True, extra="ignore", populate_by_name=True
    )
    section: ClassVar[str] = "gateway"

    @classmethod
    def first_port(cls, values: Mapping[str, Any]) -> int:
        """Returns the port of the API, or by the control endpoint when it takes a free one."""
        port = str(values.get("port", ""))
        own = int(port) if port.isascii() and port.isdecimal() else 0
        return own or super().first_port(values)

    host: str = "127.0.0.1"
    """Address to bind the API to."""
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    """Port of the API; 0 takes a free one, which the beacon publishes."""
    require_key: bool | None = None
    """Refuse requests without an API key. Default: only when ``host`` is not a loopback address."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may use, beside this machine's own names and IP addresses;
    ``*`` allows any."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may use the API (CORS), like ``https://chat.example.com``, beside
    those on this machine (loopback addresses, desktop applications); ``*`` allows every page."""
    tls_certificate: Path | None = None
    """File with the certificate chain (PEM). Together with ``tls_key`` it turns on HTTPS."""
    tls_key: Path | None = None
    """File with the certificate's private key (PEM), without a password."""
    data_port: int = Field(default=0, ge=0, le=65535)
    """Port on which the tails send tokens; 0 takes a free one."""

    max_body_bytes: int = Field(default=32 << 20, ge=1024, le=1 << 30)
    """Maximum size of a request body in bytes; beyond it the status is 413."""
    max_headers_bytes: int = Field(default=32 << 10, ge=1024, le=1 << 20)
    """Maximum size of a request line and its headers in bytes; beyond it the status is 431."""
    max_headers: int = Field(default=100, ge=8, le=10_000)
    """Maximum number of headers of a request; beyond it the status is 431."""
    headers_deadline_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds from a client's connection, or from the first byte of a later request, to the end
    of the request's headers. A TLS handshake has as long."""
    max_schema_bytes: int = Field(default=64 << 10, ge=256, le=512 << 10)
    """Maximum size, in characters, of a JSON Schema, regular expression or list of choices that
    constrains a reply."""
    max_schema_depth: int = Field(default=64, ge=4, le=128)
    """Maximum nesting depth of objects and lists in such a schema."""
    grammar_deadline_s: float = Field(default=5.0, gt=0, le=60)
    """Seconds in which the grammar of a request must compile."""
    body_deadline_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds a client may take to send a request's body."""
    max_running: int = Field(default=1024, ge=1, le=65536)
    """Maximum number of running sequences; beyond it the status is 429."""
    stream_buffer_tokens: int = Field(default=1024, ge=16, le=1 << 20)
    """Maximum number of unread tokens of a reply; beyond it the request of the slow client is
    cancelled."""
    stall_deadline_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds a client may leave its stream unread before the stream is closed."""
    keep_alive_s: float = Field(default=5.0, gt=0, le=60)
    """Seconds between the comments that keep a waiting stream open."""

    model_aliases: dict[str, str] = Field(default_factory=dict[str, str])
    """Names of models by pattern, as JSON: ``{"claude-*": "my-model"}``. The first pattern that
    matches a requested name applies, without regard to case."""
    unknown_models: Literal["refuse", "loaded"] = "refuse"
    """Meaning of the name of an unknown model: ``refuse`` answers 404, ``loaded`` takes the first
    loaded model."""
    unknown_parameters: Literal["ignore", "refuse"] = "ignore"
    """Treatment of parameters that the API does not know: ``ignore`` names them in the header
    ``x-pomona-ignored``, ``refuse`` answers 400."""
    default_max_tokens: int = Field(default=32768, ge=0, le=2**31 - 1)
    """Maximum number of tokens of a reply whose request sets no limit; 0 for the rest of the
    context."""
    default_max_string: int = Field(default=0, ge=0, le=1 << 20)
    """Maximum characters of a string under a JSON Schema that sets no limit; 0 for none."""
    default_max_items: int = Field(default=0, ge=0, le=1 << 16)
    """Maximum items of an array under a JSON Schema that sets no limit; 0 for none."""
    dropped_system_lines: Annotated[tuple[Pattern, ...], Field(max_length=100)] = DROPPED
    """Regular expressions for whole lines of system messages that are left out of prompts, such
    as billing headers that differ at each request."""
    volatile_system_lines: Annotated[tuple[Pattern, ...], Field(max_length=100)] = MOVED
    """Regular expressions for whole lines of system messages that are moved to the end of the
    last message of the user or of a tool, so that the prefix cache serves the text before."""

    model_folders: tuple[Path, ...] = ()
    """Folders from which models may be loaded by their path (``POST /v1/models/load``). Default:
    any folder that has a model."""
    load_on_request: bool = True
    """Load a model that the planner knows when a request names it; the status is 503 with
    Retry-After until it is loaded."""
    send_deadline_s: float = Field(default=3.0, gt=0, le=60)
    """Seconds the head of a pipeline may take to accept a message."""
    queue_deadline_s: float = Field(default=300.0, gt=0, le=86400)
    """Seconds a request may wait in the head's queue before its prefill begins."""
    first_token_deadline_s: float = Field(default=900.0, gt=0, le=86400)
    """Seconds from a request to its first token, including queue and prefill."""
    token_deadline_s: float = Field(default=120.0, gt=0, le=86400)
    """Seconds between two tokens of a reply, not counting the recovery of a pipeline."""
    recovery_deadline_s: float = Field(default=60.0, gt=0, le=3600)
    """Seconds a running request waits for a broken pipeline to recover."""
    max_attempts: int = Field(default=3, ge=1, le=16)
    """Epochs in a row in which a request is tried without a new token before it fails."""
    journal: Literal["disk", "memory"] = "disk"
    """Place of requests with an ``Idempotency-Key`` and of stored responses: on ``disk``, in
    the state folder, they survive the gateway; in ``memory`` nothing is written."""
    journal_keep_s: float = Field(default=600.0, gt=0, le=86400)
    """Seconds after its end in which a request with an ``Idempotency-Key`` is answered with the
    same response, and the events of a response can be streamed again."""
    journal_max_bytes: int = Field(default=256 << 20, ge=1 << 20, le=1 << 40)
    """Maximum size of these replies in memory, and of the journal on disk, each in bytes."""
    stored_responses_max_bytes: int = Field(default=512 << 20, ge=1 << 20, le=1 << 40)
    """Maximum size in bytes of the stored responses on disk; the oldest are evicted."""
    drain_deadline_s: float = Field(default=20.0, gt=0, le=3600)
    """Seconds that running requests may take to finish after SIGTERM."""
