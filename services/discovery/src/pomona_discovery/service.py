"""The discovery service: a switchboard with a gate, and a mesh of peers.

Beacons of this node go to this node's services and to every peer; beacons of peers go to
this node's services only, so nothing goes round in a circle.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from pomona.errors import LinkError
from pomona.leases import LEASE_S
from pomona.messages.control import Beacon
from pomona.messages.discovery import DiscoveryFacts, Hardware, NodeFacts
from pomona.service import ControlPlane, start_metrics
from pomona.transport import BeaconProxy
from pomona_discovery import metrics
from pomona_discovery.beacon_filter import BeaconFilter, Dropped, Origin
from pomona_discovery.hardware import detect_hardware
from pomona_discovery.link_monitor import LinkMonitor, addresses_of
from pomona_discovery.link_probe import ProbeServer
from pomona_discovery.mdns import Mdns
from pomona_discovery.node_facts import collect_node_facts, in_own_network, interfaces
from pomona_discovery.peer_table import Link, PeerTable
from pomona_discovery.settings import DiscoverySettings

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 0.5
FAREWELL_DEADLINE_S = 0.5
MACHINE_INTERVAL_S = 60.0
"""Between two looks at what may change on this machine."""


async def serve(settings: DiscoverySettings, stop: asyncio.Event) -> None:
    """Run discovery until ``stop`` is set."""
    hardware = await asyncio.to_thread(detect_hardware)
    peer = f"tcp://{settings.peer_host}:{settings.peer_port or '*'}"
    board = BeaconProxy(settings.control_publish, settings.control_subscribe, peer)
    try:
        metrics_url, stop_metrics = start_metrics(settings, "POMONA_DISCOVERY_METRICS_PORT")
        try:
            await Discovery(settings, board, hardware, metrics_url).run(stop)
        finally:
            stop_metrics()
    finally:
        board.close()


class Discovery:
    """One node's switchboard at work."""

    def __init__(
        self,
        settings: DiscoverySettings,
        board: BeaconProxy,
        hardware: Hardware,
        metrics_url: str,
    ) -> None:
        self._board = board
        self._hardware = hardware
        self._gate = BeaconFilter(settings.cluster, settings.node)
        outside = [i.address for i in interfaces({}) if i.kind != "loopback"]
        own = settings.advertised(board.peer_endpoint, outside[0] if outside else "")
        self._mesh = PeerTable({own, board.peer_endpoint}, settings.peers, time.monotonic())
        self._conflicts: frozenset[str] = frozenset()
        self._settings = settings
        self._node_facts = NodeFacts()
        self._planners: dict[str, float] = {}
        self._probes = ProbeServer()
        self._peer_ports: dict[str, str] = {}
        self._links = LinkMonitor(
            settings.node,
            lambda: self._node_facts.interfaces,
            self._links_changed,
            settings.probe_interval_s,
        )
        self._said_farewell = asyncio.Event()
        self.control = ControlPlane(
            settings,
            f"{settings.node}.discovery",
            self._facts,
            {"peer": own, "metrics": metrics_url},
        )
        identity = self.control.identity
        self._mdns = Mdns(settings.cluster, settings.node, identity.boot, self._found)

    async def run(self, stop: asyncio.Event) -> None:
        """Forward beacons until ``stop`` is set or a socket fails."""
        self._obey(self._mesh.begin())
        await self._look_at_machine()
        async with self._forwarding() as failed, self._measuring():
            async with self.control.running():
                self.control.state = "ready"
                log.info("discovery is ready", extra={"peer": self.control.endpoints["peer"]})
                await _first_of(stop, failed)
                self.control.state = "draining"
            # The farewell above came in through this switchboard: let it out to the others.
            with suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_DEADLINE_S):
                    await self._said_farewell.wait()

    @asynccontextmanager
    async def _forwarding(self) -> AsyncGenerator[asyncio.Future[None]]:
        """One task for each socket while the block runs, and a future of the first failure."""
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not failed.done():
                failed.set_exception(error)

        tasks = [
            asyncio.create_task(self._forward_local()),
            asyncio.create_task(self._forward_peers()),
            asyncio.create_task(self._board.drain_subscriptions()),
            asyncio.create_task(self._check()),
        ]
        for task in tasks:
            task.add_done_callback(ended)
        try:
            yield failed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def _measuring(self) -> AsyncGenerator[None]:
        """Find nodes and measure the ways to them while the block runs. None of it is needed
        to forward beacons: what fails is logged."""
        settings = self._settings
        try:
            await self._probes.start(settings.peer_host, settings.probe_port)
            self.control.endpoints["probe"] = f"tcp://{settings.peer_host}:{self._probes.port}"
        except OSError as error:
            log.warning("the way to this node cannot be measured: %s", error)
        tasks = [
            asyncio.create_task(self._links.run()),
            asyncio.create_task(self._watch_machine()),
        ]
        if settings.mdns and not settings.is_local:
            tasks.append(asyncio.create_task(self._announce()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._mdns.stop()
            await self._probes.stop()

    async def _announce(self) -> None:
        host = self._settings.peer_host
        addresses = addresses_of(host, self._node_facts.interfaces)
        port = int(self._board.peer_endpoint.rpartition(":")[2])
        await self._mdns.start(addresses, port)

    def _found(self, node: str, addresses: list[str], port: int) -> None:
        """Another node was found by multicast."""
        if node == self._settings.node:
            log.error("another machine bears this node's name, %s: set POMONA_NODE", node)
        for address in addresses:
            self._obey(self._mesh.offer(f"tcp://{address}:{port}", time.monotonic()))

    def _links_changed(self) -> None:
        """Beacons go by the best address too, so that one that dies is replaced."""
        for link in self._links.facts():
            port = self._peer_ports.get(link.node, "")
            if link.address and port:
                endpoint = f"tcp://{link.address}:{port}"
                self._obey(self._mesh.offer(endpoint, time.monotonic()))
        self.control.publish_now()

    async def _watch_machine(self) -> None:
        while True:
            await asyncio.sleep(MACHINE_INTERVAL_S)
            await self._look_at_machine()

    async def _look_at_machine(self) -> None:
        self._node_facts = await asyncio.to_thread(collect_node_facts, self._settings.state_dir)

    async def _forward_local(self) -> None:
        while True:
            frames = await self._board.receive_local()
            beacon = self._admit(frames, "local")
            if beacon is None:
                continue
            await self._board.send_local(frames)
            await self._board.send_peers(frames)
            if beacon.boot == self.control.identity.boot and beacon.state == "draining":
                self._said_farewell.set()

    async def _forward_peers(self) -> None:
        while True:
            frames = await self._board.receive_peer()
            beacon = self._admit(frames, "peer")
            if beacon is None:
                continue
            await self._board.send_local(frames)
            self._obey(self._mesh.on_beacon(beacon, time.monotonic()))
            if beacon.facts.service == "discovery":
                self._peer_ports[beacon.node] = beacon.endpoints.get("peer", "").rpartition(":")[2]
            self._links.on_beacon(beacon)

    async def _check(self) -> None:
        """Notice what silence tells."""
        while True:
            now = time.monotonic()
            for silent in self._gate.expire(now):
                if silent.facts.service == "discovery":
                    self._links.forget(silent.node)
            self._obey(self._mesh.expire(now))
            self._tell_conflicts()
            metrics.PEERS.labels("connected").set(len(self._mesh.connected()))
            metrics.PEERS.labels("heard").set(len(self._mesh.heard(now)))
            await asyncio.sleep(CHECK_INTERVAL_S)

    def _admit(self, frames: list[bytes], origin: Origin) -> Beacon | None:
        verdict = self._gate.admit(frames, origin, time.monotonic())
        if isinstance(verdict, Dropped):
            metrics.DROPPED.labels(origin, verdict.reason).inc()
            log.debug("beacon dropped: %s", verdict.detail, extra={"reason": verdict.reason})
            return None
        if verdict.facts.service == "planner":
            self._planners[verdict.name] = time.monotonic()
        metrics.FORWARDED.labels(verdict.facts.service, origin).inc()
        return verdict

    def _obey(self, links: list[Link]) -> None:
        for link in links:
            if link.action == "connect":
                try:
                    self._board.connect_peer(link.endpoint)
                except LinkError as error:
                    log.warning("%s", error)
                    continue
            else:
                self._board.disconnect_peer(link.endpoint)
            log.info("peer: %s", link.action, extra={"endpoint": link.endpoint})
        if links:
            self.control.publish_now()

    def _tell_conflicts(self) -> None:
        now = self._gate.conflicts
        for name in sorted(now - self._conflicts):
            log.error(
                "two processes are called %s: give each machine its own POMONA_NODE, "
                "and run each service once",
                name,
            )
        for name in sorted(self._conflicts - now):
            log.info("only one process is called %s again", name)
        self._conflicts = now
        metrics.CONFLICTS.set(len(now))

    def _facts(self) -> DiscoveryFacts:
        return DiscoveryFacts(
            hardware=self._hardware,
            peers=tuple(self._mesh.heard(time.monotonic())),
            machine=replace(self._node_facts, clock_s=time.time()),
            links=self._links.facts(),
            troubles=tuple(self._troubles()),
        )

    def _troubles(self) -> list[str]:
        """What is wrong, in words."""
        now = time.monotonic()
        found = [f"two processes are called {name}" for name in sorted(self._gate.conflicts)]
        found += [
            f"{endpoint} of the settings does not answer" for endpoint in self._mesh.silent(now)
        ]
        found += [
            f"{node} cannot be reached at any of its addresses"
            for node in self._links.unreachable()
        ]
        near = [(x.node, x.address) for x in self._links.facts() if in_own_network(x.address)]
        if trouble := self._mdns.trouble(near):
            found.append(trouble)
        planners = sorted(name for name, at in self._planners.items() if now - at <= LEASE_S)
        if len(planners) > 1:
            found.append(
                f"{len(planners)} planners are heard ({', '.join(planners)}): another cluster "
                f"is called {self._settings.cluster} too, or a planner runs twice"
            )
        return found[:64]


async def _first_of(stop: asyncio.Event, failed: asyncio.Future[None]) -> None:
    """Wait for either. Raises what ``failed`` holds."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
    finally:
        stopped.cancel()
