"""``pomona up``: runs a whole cluster on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import httpx

from pomona import host
from pomona.errors import ConfigurationError
from pomona.leases import BEACON_INTERVAL_S, LeaseTable
from pomona.parent_watch import LIFELINE_GRACE_S, watch_parent
from pomona.private_files import keep_private, make_folder
from pomona.service import EXIT_CONFIGURATION
from pomona.settings import read_settings
from pomona.silence import SilenceWatch
from pomona.stalls import add_stall
from pomona.transport import BeaconReceiver, use
from pomona.trust import Trust
from pomona_gateway.listener import open_listener
from pomona_gateway.settings import GatewaySettings
from pomona_ops.cluster.blas import OPENBLAS_REMEDY, missing_openblas
from pomona_ops.cluster.ports import LOOPBACK, require_free
from pomona_ops.cluster.processes import (
    ClusterOptions,
    gateway_url,
    service_specs,
    with_standbys,
)
from pomona_ops.cluster.readiness import why_not_ready
from pomona_ops.cluster.started import record_start
from pomona_ops.up.event_formatter import EventFormatter, Line
from pomona_ops.up.lock import up_lock, was_killed
from pomona_ops.up.node_place import node_place
from pomona_ops.up.readiness_story import Readiness
from pomona_ops.up.screen import Screen
from pomona_ops.up.supervisor import Exited, Silent, Supervisor, SupervisorEvent

READY_POLL_S = 0.2
READY_WATCH_S = 1.0
PLACE_WATCH_S = 0.5
READY_ANSWER_S = 5.0
ORPHANS_S = LIFELINE_GRACE_S + 2.0
"""Seconds within which the children of a killed `up` have ended."""


def run_up(read_options: Callable[[], ClusterOptions]) -> int:
    """Runs the cluster until SIGINT, SIGTERM or SIGHUP. Returns the exit code.

    The services start again, with new options, when this node's place in its cluster changes:
    ``pomona invite`` and ``pomona join`` write it to the state folder.

    Raises ConfigurationError before anything is started when a port is taken or the state
    folder cannot be created.
    """
    options = read_options()
    # Children of a killed `up` end within their grace period, and give the ports back.
    orphans_s = ORPHANS_S if was_killed(options.state_dir) else 0.0
    require_free(options.ports, options.stages, orphans_s)
    try:
        make_folder(options.state_dir)
        keep_private(options.state_dir)
    except OSError as error:
        raise ConfigurationError(
            f"{options.state_dir} cannot be created: {error.strerror}; "
            "set POMONA_STATE_DIR to a writable folder"
        ) from error
    use(Trust.open(options.state_dir, options.node, options.cluster))
    record_start(options)
    host.raise_open_files_limit()
    with up_lock(options.state_dir):
        listener: socket.socket | None = None
        try:
            while True:
                if options.role == "head" and listener is None:
                    host_name = read_settings(GatewaySettings, state_dir=options.state_dir).host
                    listener = open_listener(host_name, options.ports.gateway)
                # The supervisor closes its copy. Clients wait while this one listens.
                copy = None if listener is None else listener.dup()
                code = asyncio.run(_Up(options, copy).run())
                if code is not None:
                    return code
                options = read_options()
                use(Trust.open(options.state_dir, options.node, options.cluster))
                record_start(options)
        finally:
            if listener is not None:
                listener.close()


class _Up:
    """One run of the services: supervisor, beacons, readiness and screen."""

    def __init__(self, options: ClusterOptions, listener: socket.socket | None) -> None:
        self._options = options
        self._url = gateway_url(options.ports.gateway)
        self._stop = asyncio.Event()
        self._moved = False
        self._place = node_place(options.state_dir)
        self._screen = Screen(on_closed=self._stop.set)
        self._formatter = EventFormatter(options.node)
        self._died_at: float | None = None
        self._supervisor = Supervisor(
            with_standbys(service_specs(options)),
            options.state_dir / "logs",
            self._on_event,
            listener,
        )

    async def run(self) -> int | None:
        """Returns the exit code; None when the services are to start again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        watch_parent()
        self._print(f"{self._what()}, logs in {self._options.state_dir / 'logs'}")
        if missing := missing_openblas():
            self._screen.line(Line("pomona", f"{missing}; {OPENBLAS_REMEDY}", "warning"))
        self._supervisor.start()
        try:
            await self._first_of(
                self._stop.wait(),
                self._supervisor.gave_up.wait(),
                self._follow_beacons(),
                self._print_readiness() if self._options.role == "head" else self._stop.wait(),
                self._watch_place(),
            )
        finally:
            self._screen.close()
            if self._moved:
                self._print("this node's place in its cluster has changed: services start again")
            elif not self._stop.is_set():
                self._print("a service cannot run; stopping the others", good=False)
            await self._supervisor.stop()
        if self._moved and not self._stop.is_set():
            return None
        return EXIT_CONFIGURATION if self._supervisor.gave_up.is_set() else 0

    def _what(self) -> str:
        options = self._options
        if options.role == "worker":
            return f"{options.node}, a member of {options.cluster}"
        if options.shared:
            return f"{options.model} on every machine of {options.cluster}"
        held = f", each held by {options.group} ranks" if (options.group or 1) > 1 else ""
        stages = "1 stage" if options.stages == 1 else f"{options.stages} stages"
        return f"{options.model} in {stages}{held}"

    async def _watch_place(self) -> None:
        """Returns when this node's place in its cluster has changed."""
        while True:
            place = node_place(self._options.state_dir)
            if place is not None and place != self._place:
                self._moved = True
                return
            await asyncio.sleep(PLACE_WATCH_S)

    @staticmethod
    async def _first_of(*waits: Coroutine[Any, Any, Any]) -> None:
        """Runs all until the first ends, then cancels the others. Raises what the first raised."""
        tasks = [asyncio.create_task(wait) for wait in waits]
        try:
            done, _ = await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._print("stopping at once")
            self._supervisor.hasten()
            return
        self._stop.set()
        self._print("draining: running requests may finish; press Ctrl-C again to stop at once")

    def _print(self, text: str, good: bool | None = None) -> None:
        self._screen.line(
            Line("pomona", text, "plain" if good is None else "good" if good else "bad")
        )

    def _on_event(self, event: SupervisorEvent) -> None:
        if isinstance(event, Exited | Silent):
            self._died_at = time.monotonic()
        self._screen.line(self._formatter.on_supervisor_event(event))

    async def _follow_beacons(self) -> None:
        """Prints what the beacons report, and ends processes whose beacons have stopped."""
        leases = LeaseTable()
        silence = SilenceWatch()
        ending: set[asyncio.Task[None]] = set()
        endpoint = f"tcp://{LOOPBACK}:{self._options.ports.control_subscribe}"
        receiver = BeaconReceiver(endpoint, self._options.cluster)
        try:
            while True:
                beacon = await receiver.receive(BEACON_INTERVAL_S / 4)
                now = time.monotonic()
                if beacon is not None and beacon.node == self._options.node:
                    service = beacon.name.removeprefix(f"{beacon.node}.")
                    silence.observe(service, beacon.pid, now)
                    if beacon.state == "draining":
                        self._supervisor.succeed(service, beacon.pid)
                pids = self._supervisor.pids()
                for service in silence.silent(pids, now, self._is_stopped_worker):
                    name = f"{self._options.node}.{service}"
                    add_stall(self._options.state_dir, name, time.time())
                    task = asyncio.create_task(self._supervisor.end_silent(service))
                    ending.add(task)
                    task.add_done_callback(ending.discard)
                if beacon is not None and leases.observe(beacon, now):
                    for line in self._formatter.on_beacon(beacon, now):
                        self._screen.line(line)
                for lost in leases.expire(now):
                    self._formatter.on_lease_end(lost)
                self._screen.loading(self._formatter.loading)
        finally:
            await receiver.close()

    def _is_stopped_worker(self, service: str) -> bool:
        # Ending a gateway would cut its clients off, so it has more time to go on.
        return service.startswith("stage_worker") and self._supervisor.is_stopped(service)

    async def _print_readiness(self) -> None:
        """Prints when the cluster becomes ready, when it stops being ready, and when it is again.

        "Ready again" ends the story of a death: the process is back, its pipeline is active, and a
        token has come through it.
        """
        readiness = Readiness(time.monotonic(), self._options.model, self._url)
        # The certificate is for the names that clients use, not for this machine's address.
        async with httpx.AsyncClient(
            timeout=READY_ANSWER_S, trust_env=False, verify=False
        ) as client:
            while True:
                reason = await why_not_ready(client, self._url)
                is_first = not readiness.was_ready
                for line in readiness.update(
                    reason, self._formatter.is_settled, self._died_at, time.monotonic()
                ):
                    self._screen.line(line)
                if is_first and readiness.was_ready:
                    self._print(self._next_steps())
                is_calm = readiness.is_ready and self._formatter.is_settled
                await asyncio.sleep(READY_WATCH_S if is_calm else READY_POLL_S)

    def _next_steps(self) -> str:
        port = self._options.ports.first
        return (
            f"chat: `pomona chat --port {port}`; status: `pomona status --port {port}`; "
            "stop: Ctrl-C"
        )
