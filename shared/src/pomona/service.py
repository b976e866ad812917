"""What the five services have in common: identity, beacons out, beacons in, signals."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import prometheus_client

from pomona import __version__
from pomona.errors import AddressInUseError, ConfigurationError, PomonaError
from pomona.leases import BEACON_INTERVAL_S, LeaseTable
from pomona.logs import configure_logs
from pomona.messages.control import Beacon, Facts, State
from pomona.parent_watch import watch_parent
from pomona.settings import ServiceSettings
from pomona.transport import BeaconReceiver, BeaconSender, Identity, terminate

log = logging.getLogger(__name__)

EXIT_CONFIGURATION = 78
UNHEARD_INTERVAL_S = 0.1


class ControlPlane:
    """A service's place in the cluster: what it says of itself, and what it hears.

    ``facts`` is asked for at every beacon. ``changed()`` makes the next beacon go now.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        name: str,
        facts: Callable[[], Facts],
        endpoints: dict[str, str] | None = None,
        work: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        """Args: work: (progress, queued) as the beacon states them."""
        self.identity = Identity(settings.cluster, name, secrets.token_hex(8))
        self.leases = LeaseTable()
        self.endpoints = dict(endpoints or {})
        self._settings = settings
        self._facts = facts
        self._work = work
        self._state: State = "starting"
        self._seq = 0
        self._changed = asyncio.Event()
        self._heard: list[Callable[[Beacon], None]] = []
        self._lost: list[Callable[[Beacon], None]] = []

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, value: State) -> None:
        if value != self._state:
            self._state = value
            self.publish_now()

    def publish_now(self) -> None:
        """Something that a beacon states has changed: send one now."""
        self._changed.set()

    def on_beacon(self, heard: Callable[[Beacon], None]) -> None:
        """Call ``heard`` with every beacon that is news, this service's own included."""
        self._heard.append(heard)

    def on_lost(self, lost: Callable[[Beacon], None]) -> None:
        """Call ``lost`` with the last beacon of a service that fell silent."""
        self._lost.append(lost)

    def beacon(self) -> Beacon:
        """What this service would say of itself now."""
        progress, queued = self._work()
        self._seq += 1
        return Beacon(
            cluster=self.identity.cluster,
            name=self.identity.name,
            node=self._settings.node,
            boot=self.identity.boot,
            seq=self._seq,
            version=__version__,
            pid=os.getpid(),
            state=self._state,
            progress=progress,
            queued=queued,
            endpoints=dict(self.endpoints),
            facts=self._facts(),
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Send and hear beacons while the block runs.

        The last beacon says ``draining``, a farewell, when the block ends well, and
        ``failed`` when it raises.
        """
        sender = BeaconSender(self._settings.control_publish)
        receiver = BeaconReceiver(self._settings.control_subscribe, self.identity.cluster)
        tasks = [
            asyncio.create_task(self._send(sender)),
            asyncio.create_task(self._hear(receiver)),
        ]
        last_word: State = "failed"
        try:
            yield
            last_word = "draining"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._state = last_word
            with suppress(PomonaError):
                sender.send(self.beacon())
            sender.close()
            await receiver.close()

    async def _send(self, sender: BeaconSender) -> None:
        while True:
            self._changed.clear()
            try:
                sender.send(self.beacon())
            except Exception:
                log.exception("no beacon can be sent")
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    BEACON_INTERVAL_S if self._is_heard() else UNHEARD_INTERVAL_S
                ):
                    await self._changed.wait()

    def _is_heard(self) -> bool:
        """Whether beacons come back from discovery: what is sent before that may be lost."""
        own = self.leases.get(self.identity.name)
        return own is not None and own.beacon.boot == self.identity.boot

    async def _hear(self, receiver: BeaconReceiver) -> None:
        while True:
            beacon = await receiver.receive(BEACON_INTERVAL_S / 4)
            now = time.monotonic()
            if beacon is not None and self.leases.observe(beacon, now):
                self._tell(self._heard, beacon)
            for silent in self.leases.expire(now):
                self._tell(self._lost, silent)

    def _tell(self, listeners: list[Callable[[Beacon], None]], beacon: Beacon) -> None:
        """One listener's error must not make this service deaf."""
        for listener in listeners:
            try:
                listener(beacon)
            except Exception:
                log.exception("a beacon could not be dealt with", extra={"from": beacon.name})


def start_metrics(settings: ServiceSettings, setting: str) -> tuple[str, Callable[[], None]]:
    """Serve ``/metrics``; its URL, and a function that stops it."""
    endpoint = f"{settings.metrics_host}:{settings.metrics_port}"
    try:
        server, thread = prometheus_client.start_http_server(
            settings.metrics_port, settings.metrics_host
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(endpoint, setting) from error
        raise ConfigurationError(
            f"cannot listen on {endpoint} for metrics: {error.strerror}; "
            "change POMONA_METRICS_HOST to an address of this machine"
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5)

    return f"http://{settings.metrics_host}:{server.server_port}/metrics", stop


def run_service(
    service: str,
    settings: ServiceSettings,
    main: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
) -> None:
    """Run a service until SIGTERM or SIGINT sets the event that ``main`` is given.

    Under ``pomona up`` the end of the supervisor counts as SIGTERM.
    Exits with 78 when a setting or a port cannot be used, with 1 on any other failure.
    """
    configure_logs(service, settings.node, settings.log_level)

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        watch_parent()
        await main(stop)

    gc.freeze()
    try:
        asyncio.run(body())
    except (AddressInUseError, ConfigurationError) as error:
        log.error("%s", error)
        raise SystemExit(EXIT_CONFIGURATION) from error
    except PomonaError as error:
        log.error("%s", error)
        raise SystemExit(1) from error
    finally:
        terminate()
