"""The life of a gateway process: bind, serve, drain, close."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress

import uvicorn

from pomona.errors import AddressInUseError, ConfigurationError, LinkError, RequestError
from pomona_gateway.api.app import build_app
from pomona_gateway.gateway import Gateway
from pomona_gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

CLOSE_GRACE_S = 2
"""What the last error events of a drain get to reach their clients."""
BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn without handlers for signals: the service has its own."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def serve(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set, then let running requests finish."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _check_tls(settings)
    listener = _listen(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.tls_certificate else "http"
    try:
        gateway = Gateway(settings, f"{scheme}://{host}:{listener.getsockname()[1]}")
    except BaseException:
        listener.close()
        raise
    gateway.control.endpoints["metrics"] = f"{gateway.url}/metrics"
    server = Server(
        uvicorn.Config(
            build_app(gateway),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            timeout_graceful_shutdown=int(settings.drain_deadline_s) + CLOSE_GRACE_S,
        )
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
    gateway.engine.fail_all(
        RequestError(503, "shutting_down", "the gateway shut down before the reply was complete")
    )


def _check_tls(settings: GatewaySettings) -> None:
    """Raises ConfigurationError when TLS is half set, or a file is missing."""
    names = {
        "POMONA_GATEWAY_TLS_CERTIFICATE": settings.tls_certificate,
        "POMONA_GATEWAY_TLS_KEY": settings.tls_key,
    }
    if not any(names.values()):
        return
    for name, path in names.items():
        if path is None or not path.is_file():
            raise ConfigurationError(f"{name} must name a file: HTTPS needs certificate and key")


SEND_BUFFER_BYTES = 256 << 10


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off only where the protocol is stated.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Left alone, the kernel holds megabytes for each client that does not read.
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
