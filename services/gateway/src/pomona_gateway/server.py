"""The life of a gateway process: bind, serve, drain, close."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import cast

import uvicorn

from pomona.errors import AddressInUseError, ConfigurationError, LinkError, RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.http.app import build_app
from pomona_gateway.http.client_deadlines import Connection
from pomona_gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

CLOSE_GRACE_S = 2
"""What the last error events of a drain get to reach their clients."""
BACKLOG = 2048
"""Connections that the kernel keeps until they are accepted."""
SEND_BUFFER_BYTES = 256 << 10
"""Left alone, the kernel holds megabytes for each client that does not read."""


class Server(uvicorn.Server):
    """uvicorn without handlers for signals, of which the service has its own, and with a
    deadline for TLS handshakes, which uvicorn leaves at asyncio's minute."""

    def __init__(self, config: uvicorn.Config, handshake_s: float) -> None:
        super().__init__(config)
        self._handshake_s = handshake_s

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        config = self.config
        make = partial(
            config.http_protocol_class, config=config, server_state=self.server_state, app_state={}
        )
        create = partial(asyncio.get_running_loop().create_server, make, backlog=BACKLOG)
        if config.ssl is not None:
            create = partial(create, ssl=config.ssl, ssl_handshake_timeout=self._handshake_s)
        self.servers = [await create(sock=listener) for listener in sockets or ()]
        self.started = True


async def serve(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set, then let running requests finish."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    tls = _tls(settings)
    listener = _listen(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if tls else "http"
    try:
        gateway = Gateway(settings, f"{scheme}://{host}:{listener.getsockname()[1]}")
    except BaseException:
        listener.close()
        raise
    gateway.control.endpoints["metrics"] = f"{gateway.url}/metrics"
    connection = partial(Connection, settings, gateway.count_error)
    server = Server(
        uvicorn.Config(
            build_app(gateway),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            # Whatever makes a protocol will do; uvicorn's type wants a class.
            http=cast("type[asyncio.Protocol]", connection),
            h11_max_incomplete_event_size=settings.max_headers_bytes,
            ssl_context_factory=None if tls is None else lambda config, default: tls,
            timeout_graceful_shutdown=int(settings.drain_deadline_s) + CLOSE_GRACE_S,
        ),
        settings.headers_deadline_s,
    )
    try:
        async with gateway.control.running():
            log.info("the API listens", extra={"url": gateway.url})
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            gateway.drain()
            server.should_exit = True
            await _drain(gateway, serving, settings.drain_deadline_s)
            stopping.cancel()
            await serving
    finally:
        listener.close()
        await gateway.close()


async def _drain(gateway: Gateway, serving: asyncio.Task[None], deadline_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(deadline_s):
            await asyncio.shield(serving)
    gateway.pipelines.fail_all(
        RequestError(503, "shutting_down", "the gateway shut down before the reply was complete")
    )


def _tls(settings: GatewaySettings) -> ssl.SSLContext | None:
    """Raises ConfigurationError when TLS is half set, or its files do not make a server."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None:
        return None
    given = f"POMONA_GATEWAY_TLS_CERTIFICATE={certificate} and POMONA_GATEWAY_TLS_KEY={key}"
    if certificate is None or key is None:
        raise ConfigurationError(f"{given}: HTTPS needs both, certificate and key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{given} cannot be used: {error}; name a certificate, and its key without a "
            "password, both as PEM"
        ) from error
    return context


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off only where the protocol is stated.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(f"{host}:{port}", "POMONA_GATEWAY_PORT") from error
        raise LinkError(
            f"cannot listen on {host}:{port}: {error}; change POMONA_GATEWAY_HOST"
        ) from error
    return listener
