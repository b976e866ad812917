"""The life of a gateway process: bind, serve, drain, close."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import cast

import uvicorn

from pomona.errors import ConfigurationError, RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.http.app import build_app
from pomona_gateway.http.client_deadlines import Connection
from pomona_gateway.http.descriptors import DescriptorReserve
from pomona_gateway.listener import BACKLOG, open_listener
from pomona_gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 32
"""Connections that are accepted before any is handled, or refused for want of descriptors."""
SUCCEEDED_DRAIN_S = 600.0
"""Seconds for which a gateway may finish its streams beside its successor, which serves."""
CLOSE_GRACE_S = 2
"""Seconds from the end of a drain until connections are closed, for its last error events."""


async def serve(
    settings: GatewaySettings, stop: asyncio.Event, at_once: asyncio.Event | None = None
) -> None:
    """Runs the gateway until ``stop`` is set and the running requests have finished.

    Args:
        at_once: ends the running requests with an error when it is set after ``stop``.

    Raises ConfigurationError, AddressInUseError or LinkError when it cannot start.
    """
    tls = _load_tls(settings)
    with closing(open_listener(settings.host, settings.port)) as listener:
        reserve = DescriptorReserve(encrypted=tls is not None)
        gateway = Gateway(settings, _url(settings.host, listener, tls))
        try:
            gateway.control.endpoints["metrics"] = f"{gateway.url}/metrics"
            server = _http_server(gateway, tls)
            reserve.install(asyncio.get_running_loop())
            async with gateway.control.running():
                gateway.runs.open()
                serving = asyncio.create_task(server.serve(sockets=[listener]))
                log.info("the API listens", extra={"url": gateway.url})
                await _wait_for_either(serving, stop)
                await _drain(gateway, server, serving, at_once or asyncio.Event())
        finally:
            await gateway.close()
            reserve.close()


def _load_tls(settings: GatewaySettings) -> ssl.SSLContext | None:
    """Loads the certificate and its key; returns None when neither is set.

    Raises ConfigurationError when only one is set, or when they cannot be used.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None:
        return None
    names = f"POMONA_GATEWAY_TLS_CERTIFICATE={certificate} and POMONA_GATEWAY_TLS_KEY={key}"
    if certificate is None or key is None:
        raise ConfigurationError(f"{names}: HTTPS needs both, certificate and key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without this argument OpenSSL would prompt for a password on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{names} cannot be used: {error}; set a certificate and its key without a "
            "password, both as PEM"
        ) from error
    return context


def _url(host: str, listener: socket.socket, tls: ssl.SSLContext | None) -> str:
    scheme = "https" if tls else "http"
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{listener.getsockname()[1]}"


def _http_server(gateway: Gateway, tls: ssl.SSLContext | None) -> Server:
    settings = gateway.settings
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    connection = partial(Connection, settings, gateway.count_error)
    config = uvicorn.Config(
        build_app(gateway),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        # uvicorn's type demands a class, but any factory of a protocol works.
        http=cast("type[asyncio.Protocol]", connection),
        h11_max_incomplete_event_size=settings.max_headers_bytes,
        ssl_context_factory=None if tls is None else lambda config, default: tls,
        timeout_graceful_shutdown=CLOSE_GRACE_S,
    )
    return Server(config, settings.headers_deadline_s)


class Server(uvicorn.Server):
    """uvicorn without signal handlers, which the service has itself, and with a deadline for
    TLS handshakes, which uvicorn leaves at asyncio's minute."""

    def __init__(self, config: uvicorn.Config, handshake_deadline_s: float) -> None:
        super().__init__(config)
        self._handshake_deadline_s = handshake_deadline_s

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        config = self.config
        protocol = partial(
            config.http_protocol_class, config=config, server_state=self.server_state, app_state={}
        )
        create = partial(
            asyncio.get_running_loop().create_server, protocol, backlog=ACCEPTED_AT_ONCE
        )
        if config.ssl is not None:
            deadline_s = self._handshake_deadline_s
            create = partial(create, ssl=config.ssl, ssl_handshake_timeout=deadline_s)
        self.servers = [await create(sock=listener) for listener in sockets or ()]
        for listener in sockets or ():
            listener.listen(BACKLOG)
        self.started = True

    def stop_accepting(self) -> None:
        """Closes the listening socket of this process. Open connections continue."""
        for server in self.servers:
            server.close()


async def _wait_for_either(serving: asyncio.Task[None], stop: asyncio.Event) -> None:
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()


async def _drain(
    gateway: Gateway, server: Server, serving: asyncio.Task[None], at_once: asyncio.Event
) -> None:
    """Lets the running requests finish, and fails those past the deadline, or ``at_once``.

    New requests get a 503, unless a successor has taken the socket over: then only it accepts, and
    goes on with the runs without a reader.
    """
    gateway.drain()
    error = RequestError(
        503, "shutting_down", "the gateway shut down before the reply was complete"
    )
    # Runs on disk are gone on with by the next gateway.
    last = {*server.server_state.tasks, *gateway.runs.unsaved_tasks()}
    finishing = asyncio.create_task(_wait_for_all(last))
    succeeding = asyncio.create_task(gateway.succeeded.wait())
    hurrying = asyncio.create_task(at_once.wait())
    handing_over: asyncio.Task[None] | None = None
    with suppress(TimeoutError):
        async with asyncio.timeout(gateway.settings.drain_deadline_s) as deadline:
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait({finishing, succeeding, hurrying}, return_when=first)
            if succeeding.done():
                server.stop_accepting()
                log.info("another gateway has taken the socket over")
                handing_over = asyncio.create_task(gateway.runs.hand_over(error))
                deadline.reschedule(asyncio.get_running_loop().time() + SUCCEEDED_DRAIN_S)
            await asyncio.wait({finishing, hurrying}, return_when=first)
    for task in (finishing, succeeding, hurrying, handing_over):
        if task is not None:
            task.cancel()
    await gateway.runs.interrupt(error)
    gateway.pipelines.fail_all(error)
    server.should_exit = True
    await serving


async def _wait_for_all(tasks: set[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
