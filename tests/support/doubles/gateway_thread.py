"""Runs a real gateway, with HTTP and links, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from pomona.transport import use
from pomona_gateway.server import serve
from pomona_gateway.settings import GatewaySettings
from support.doubles.scripted_cluster import ScriptedCluster
from support.members import scripted_keys
from support.waiting import wait_until


class GatewayThread:
    """Runs ``serve`` in a loop of its own. The state folder is a temporary one by default."""

    def __init__(self, cluster: ScriptedCluster, **settings: Any) -> None:
        self._folder = TemporaryDirectory(ignore_cleanup_errors=True)
        settings = {"state_dir": Path(self._folder.name), **settings}
        self.settings = GatewaySettings(
            node="near",
            port=0,
            control_publish=cluster.publish,
            control_subscribe=cluster.subscribe,
            **settings,
        )
        self.folder = self.settings.state_dir
        use(scripted_keys())
        self.failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()
        known = set(cluster.gateways)
        self._thread = threading.Thread(target=self._run, name="gateway")
        self._thread.start()
        wait_until(lambda: self.failure or set(cluster.gateways) - known, "a gateway's beacon")
        if self.failure is not None:
            raise self.failure
        [own] = set(cluster.gateways) - known
        self.url = cluster.gateways[own].endpoints["http"]

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(serve(self.settings, self._stop, self._at_once))
        except BaseException as error:
            self.failure = error
        finally:
            self._loop.close()

    def ready(self) -> None:
        """Waits until ``/readyz`` is 200."""
        with httpx.Client(verify=False) as client:
            wait_until(lambda: client.get(f"{self.url}/readyz").status_code == 200, "readiness")

    def stop(self) -> None:
        """Tells the gateway to drain and end."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    def stop_at_once(self) -> None:
        """Tells the draining gateway to fail what still runs."""
        self._loop.call_soon_threadsafe(self._at_once.set)

    def join(self, deadline_s: float = 60.0) -> None:
        self._thread.join(deadline_s)
        assert not self._thread.is_alive(), "the gateway did not end"
        self._folder.cleanup()
        if self.failure is not None:
            raise self.failure


@contextmanager
def running_gateway(cluster: ScriptedCluster, **settings: Any) -> Generator[GatewayThread]:
    """Runs a gateway while the block runs. Yields it when it is ready."""
    gateway = GatewayThread(cluster, **{"drain_deadline_s": 1.0, **settings})
    try:
        gateway.ready()
        yield gateway
    finally:
        gateway.stop()
        gateway.join()
