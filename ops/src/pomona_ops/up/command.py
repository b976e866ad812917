"""``pomona up``: a whole cluster on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import httpx

from pomona.errors import ConfigurationError
from pomona.leases import BEACON_INTERVAL_S, LeaseTable
from pomona.parent_watch import watch_parent
from pomona.service import EXIT_CONFIGURATION
from pomona.transport import BeaconReceiver
from pomona_ops.cluster.ports import LOOPBACK, require_free
from pomona_ops.cluster.processes import ClusterOptions, gateway_url, service_specs
from pomona_ops.cluster.readiness import why_not_ready
from pomona_ops.up.event_formatter import EventFormatter, Line
from pomona_ops.up.screen import Screen
from pomona_ops.up.supervisor import Supervisor, SupervisorEvent

READY_POLL_S = 0.2
READY_WATCH_S = 1.0
READY_ANSWER_S = 5.0
OPEN_FILES = 8192


def run_up(options: ClusterOptions) -> int:
    """Run the cluster until SIGINT, SIGTERM or SIGHUP; the exit code.

    Raises ConfigurationError before anything is started when a port is taken or the state
    folder cannot be written.
    """
    require_free(options.ports, options.stages)
    try:
        options.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{options.state_dir} cannot be made: {error.strerror}; "
            "set POMONA_STATE_DIR to a folder that can be written"
        ) from error
    _allow_open_files()
    return asyncio.run(_Up(options).run())


def _allow_open_files() -> None:
    """Let every process hold OPEN_FILES sockets and files; macOS starts out with 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Up:
    """One run of the command: the supervisor, what it hears, and what it says."""

    def __init__(self, options: ClusterOptions) -> None:
        self._options = options
        self._url = gateway_url(options.ports.gateway)
        self._stop = asyncio.Event()
        self._screen = Screen(reader_gone=self._stop.set)
        self._narrator = EventFormatter(options.node)
        self._supervisor = Supervisor(
            service_specs(options), options.state_dir / "logs", self._supervised
        )

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop)
        watch_parent()
        self._say(
            f"{self._options.model} in {self._options.stages} stages, "
            f"logs in {self._options.state_dir / 'logs'}"
        )
        self._supervisor.start()
        try:
            await self._until_first(
                self._stop.wait(), self._supervisor.gave_up.wait(), self._listen(), self._watch()
            )
        finally:
            self._screen.close()
            if not self._stop.is_set():
                self._say("a service cannot run; stopping the others", good=False)
            await self._supervisor.stop()
        return EXIT_CONFIGURATION if self._supervisor.gave_up.is_set() else 0

    @staticmethod
    async def _until_first(*waits: Coroutine[Any, Any, Any]) -> None:
        """Run all, end the others with the first; raises what that one raised."""
        tasks = [asyncio.create_task(wait) for wait in waits]
        try:
            done, _ = await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._say("stopping at once")
            self._supervisor.hasten()
            return
        self._stop.set()
        self._say("draining: running requests may end; Ctrl-C again stops at once")

    def _say(self, text: str, good: bool | None = None) -> None:
        self._screen.line(
            Line("pomona", text, "plain" if good is None else "good" if good else "bad")
        )

    def _supervised(self, event: SupervisorEvent) -> None:
        self._screen.line(self._narrator.supervised(event))

    async def _listen(self) -> None:
        """Say what the beacons tell."""
        leases = LeaseTable()
        endpoint = f"tcp://{LOOPBACK}:{self._options.ports.control_subscribe}"
        receiver = BeaconReceiver(endpoint, self._options.cluster)
        try:
            while True:
                beacon = await receiver.receive(BEACON_INTERVAL_S / 4)
                now = time.monotonic()
                if beacon is not None and leases.observe(beacon, now):
                    for line in self._narrator.heard(beacon, now):
                        self._screen.line(line)
                for silent in leases.expire(now):
                    self._narrator.lost(silent)
                self._screen.loading(self._narrator.loading)
        finally:
            await receiver.close()

    async def _watch(self) -> None:
        """Say when the gateway becomes ready, and when it is not any more."""
        since = time.monotonic()
        was_ready: bool | None = None
        # The certificate is for the names that clients use, not for this machine's address.
        async with httpx.AsyncClient(
            timeout=READY_ANSWER_S, trust_env=False, verify=False
        ) as client:
            while True:
                reason = await why_not_ready(client, self._url)
                ready = not reason
                if ready and not was_ready:
                    again = "ready again" if was_ready is False else "ready"
                    self._say(
                        f"{again} after {time.monotonic() - since:.1f} s: "
                        f"{self._options.model} at {self._url}/v1",
                        good=True,
                    )
                    if was_ready is None:
                        self._say(self._next_steps())
                    was_ready = True
                elif was_ready and not ready:
                    since = time.monotonic()
                    was_ready = False
                    self._screen.line(Line("gateway", f"not ready: {reason}", "warning"))
                await asyncio.sleep(READY_WATCH_S if ready else READY_POLL_S)

    def _next_steps(self) -> str:
        port = self._options.ports.first
        return (
            f"`pomona chat --port {port}` talks to it, `pomona status --port {port}` "
            "shows it, Ctrl-C stops it"
        )
