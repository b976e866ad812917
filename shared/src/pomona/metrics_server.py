"""Serves ``/metrics`` without ever keeping a service from working."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from typing import Final
from wsgiref.simple_server import WSGIServer

import prometheus_client

from pomona.errors import ConfigurationError
from pomona.ports import bind_free_port
from pomona.settings import ServiceSettings

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0


class MetricsServer:
    """HTTP server of one process. While its port is taken it tries again every second.

    Args:
        setting: variable that sets the port, for the log.
        on_url: called with the URL of the metrics, from another thread if the port was taken.

    Raises ConfigurationError when the host is not an address of this machine.
    """

    def __init__(
        self, settings: ServiceSettings, setting: str, on_url: Callable[[str], None]
    ) -> None:
        self._host, self._port = settings.metrics_host, settings.metrics_port
        self._setting = setting
        self._on_url = on_url
        self._stop = threading.Event()
        self._running: tuple[WSGIServer, threading.Thread] | None = None
        self._retrying: threading.Thread | None = None
        if not self._start():
            log.warning(
                "port %d is in use by another process, so there are no metrics for now; they "
                "start when it is free, or set %s to a free port", self._port, setting,
            )  # fmt: skip
            self._retrying = threading.Thread(target=self._retry, name="metrics port", daemon=True)
            self._retrying.start()

    def close(self) -> None:
        self._stop.set()
        if self._retrying is not None:
            self._retrying.join(5)
        if self._running is not None:
            server, thread = self._running
            server.shutdown()
            server.server_close()
            thread.join(5)

    def _start(self) -> bool:
        """Starts to serve. Returns False when the port is taken."""
        try:
            if self._port:
                self._running = prometheus_client.start_http_server(self._port, self._host)
            else:
                self._running = bind_free_port(
                    lambda port: prometheus_client.start_http_server(port, self._host)
                )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ConfigurationError(
                f"cannot listen on {self._host}:{self._port} for metrics: {error.strerror}; "
                "change POMONA_METRICS_HOST to an address of this machine"
            ) from error
        self._on_url(f"http://{self._host}:{self._running[0].server_port}/metrics")
        return True

    def _retry(self) -> None:
        while not self._stop.wait(RETRY_S):
            try:
                if self._start():
                    log.info("port %d is free: metrics are served", self._port)
                    return
            except ConfigurationError as error:
                log.warning("%s", error)
