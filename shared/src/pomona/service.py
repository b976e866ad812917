"""Runtime that all services share: identity, beacons, metrics, signals and exit status."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from pomona import __version__, host
from pomona.errors import AddressInUseError, ConfigurationError, PomonaError
from pomona.exit_status import EXIT_CONFIGURATION as EXIT_CONFIGURATION
from pomona.exit_status import exit_status
from pomona.former_end import former_end
from pomona.leases import BEACON_INTERVAL_S, LeaseTable
from pomona.log_rotation import reopening_log
from pomona.logs import configure_logs
from pomona.messages.control import Beacon, Facts, State
from pomona.messages.discovery import DiscoveryFacts
from pomona.parent_watch import watch_parent
from pomona.settings import ServiceSettings
from pomona.transport import (
    BeaconReceiver,
    BeaconSender,
    Identity,
    installed,
    terminate,
    use,
)
from pomona.trust import Roster, Trust

log = logging.getLogger(__name__)

STARTUP_INTERVAL_S = 0.1
"""Beacon interval until the first own beacon comes back from discovery."""


class ControlPlane:
    """Publishes a service's beacon and tracks the leases of all others.

    Args:
        name: name of the service in the cluster.
        facts: called for every beacon.
        endpoints: the beacon's ``endpoints``.
        work: returns (progress, queued) of the beacon.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        name: str,
        facts: Callable[[], Facts],
        endpoints: dict[str, str] | None = None,
        work: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.identity = Identity(settings.cluster, name, secrets.token_hex(8))
        self.leases = LeaseTable()
        self.endpoints = dict(endpoints or {})
        self._former_end = former_end()
        self._settings = settings
        self._facts = facts
        self._work = work
        self._state: State = "starting"
        self._seq = 0
        trust = installed()
        self._roster: Roster | None = trust.roster if trust is not None else None
        self._changed = asyncio.Event()
        self._beacon_handlers: list[Callable[[Beacon], None]] = []
        self._lost_handlers: list[Callable[[Beacon], None]] = []

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, value: State) -> None:
        if value != self._state:
            self._state = value
            self.publish_now()

    def publish_now(self) -> None:
        """Sends a beacon now, because its content changed."""
        self._changed.set()

    def on_metrics_url(self, url: str) -> None:
        """States where the metrics of this service are, from the next beacon on. Thread-safe."""
        self.endpoints = {**self.endpoints, "metrics": url}

    def on_beacon(self, handler: Callable[[Beacon], None]) -> None:
        """Registers a handler for every new beacon, including this service's own."""
        self._beacon_handlers.append(handler)

    def on_lost(self, handler: Callable[[Beacon], None]) -> None:
        """Registers a handler for the last beacon of a service whose lease expired."""
        self._lost_handlers.append(handler)

    def beacon(self) -> Beacon:
        """Builds the next beacon."""
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
            former_end=self._former_end,
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Sends and receives beacons while the block runs.

        The state of the last beacon is ``draining``, or ``failed`` when the block raises.
        """
        sender = BeaconSender(self._settings.control_publish)
        receiver = BeaconReceiver(self._settings.control_subscribe, self.identity.cluster)
        tasks = [
            asyncio.create_task(self._send(sender)),
            asyncio.create_task(self._receive(receiver)),
        ]
        last_state: State = "failed"
        try:
            yield
            last_state = "draining"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._state = last_state
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
                log.exception("cannot send a beacon")
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    BEACON_INTERVAL_S if self._has_echo() else STARTUP_INTERVAL_S
                ):
                    await self._changed.wait()

    def _has_echo(self) -> bool:
        """Tests whether own beacons come back from discovery. Earlier ones may have been lost."""
        own = self.leases.get(self.identity.name)
        return own is not None and own.beacon.boot == self.identity.boot

    async def _receive(self, receiver: BeaconReceiver) -> None:
        while True:
            beacon = await receiver.receive(BEACON_INTERVAL_S / 4)
            now = time.monotonic()
            if beacon is not None and self.leases.observe(beacon, now):
                self._follow_roster(beacon)
                self._notify(self._beacon_handlers, beacon)
            for lost in self.leases.expire(now):
                self._notify(self._lost_handlers, lost)

    def _follow_roster(self, beacon: Beacon) -> None:
        """Takes a newer roster from a discovery service, and ends the leases of revoked nodes."""
        trust = installed()
        if trust is None or not isinstance(beacon.facts, DiscoveryFacts):
            return
        trust.offer_text(beacon.facts.roster)
        if trust.roster is not self._roster:
            self._roster = trust.roster
            own = self._settings.node
            roster = trust.roster
            for lost in self.leases.remove_nodes(
                lambda node: node == own or roster.by_name(node) is not None
            ):
                log.warning("%s was revoked from the cluster", lost.name)
                self._notify(self._lost_handlers, lost)

    def _notify(self, handlers: list[Callable[[Beacon], None]], beacon: Beacon) -> None:
        """Calls every handler. An error in one must not stop this service from receiving."""
        for handler in handlers:
            try:
                handler(beacon)
            except Exception:
                log.exception("a beacon handler failed", extra={"from": beacon.name})


class StopEvent(asyncio.Event):
    """Set when the service should stop.

    Attributes:
        at_once: set when it should not finish its work first: at the second signal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.at_once = asyncio.Event()

    def on_signal(self) -> None:
        """Counts a signal."""
        if self.is_set():
            self.at_once.set()
        self.set()


def run_service(
    service: str,
    settings: ServiceSettings,
    main: Callable[[StopEvent], Coroutine[Any, Any, None]],
) -> None:
    """Runs ``main`` with an event that is set on SIGTERM or SIGINT.

    Under ``pomona up`` the end of the supervisor has the effect of SIGTERM. Exits with 78 when a
    setting or key is not valid or a port is in use, with 1 on any other failure; under launchd as
    :func:`pomona.exit_status.exit_status` says.
    """
    configure_logs(service, settings.node, settings.log_level)
    try:
        use(Trust.open(settings.trust_dir, settings.node, settings.cluster))
    except PomonaError as error:
        log.error("%s", error)
        raise SystemExit(exit_status(EXIT_CONFIGURATION)) from error

    async def body() -> None:
        stop = StopEvent()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.on_signal)
        watch_parent()
        with reopening_log(loop):
            await main(stop)

    host.raise_open_files_limit()
    gc.freeze()
    try:
        asyncio.run(body())
    except (AddressInUseError, ConfigurationError) as error:
        log.error("%s", error)
        raise SystemExit(exit_status(EXIT_CONFIGURATION)) from error
    except PomonaError as error:
        log.error("%s", error)
        raise SystemExit(1) from error
    finally:
        terminate()
    if status := exit_status(0):
        raise SystemExit(status)
