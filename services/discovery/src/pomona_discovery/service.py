"""The discovery service: forwards beacons between the services of this node and other nodes.

Local beacons go to local subscribers and to every peer. Peers' beacons go to local subscribers
only, so beacons cannot circulate.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from pomona.errors import LinkError, ProtocolError
from pomona.leases import LEASE_S
from pomona.messages import codec
from pomona.messages.control import Beacon
from pomona.messages.discovery import DiscoveryFacts, Hardware, NodeFacts
from pomona.messages.limits import MAX_TROUBLES
from pomona.metrics_server import MetricsServer
from pomona.service import ControlPlane
from pomona.transport import BeaconProxy, installed
from pomona.trust import Roster
from pomona_discovery import metrics
from pomona_discovery.address_watch import follow_addresses
from pomona_discovery.beacon_filter import BeaconFilter, Dropped, Origin
from pomona_discovery.doorstep.service import Doorstep
from pomona_discovery.hardware import detect_hardware
from pomona_discovery.link_monitor import LinkMonitor
from pomona_discovery.link_probe import ProbeServer
from pomona_discovery.local_network import denial
from pomona_discovery.mdns import Mdns
from pomona_discovery.node_facts import collect_node_facts
from pomona_discovery.own_addresses import (
    addresses_of,
    advertised_address,
    current_interfaces,
    interfaces,
    is_in_own_network,
)
from pomona_discovery.peer_links import PeerLinks
from pomona_discovery.peer_table import PeerInstruction, PeerTable
from pomona_discovery.settings import DiscoverySettings
from pomona_discovery.silent_services import SilentServices
from pomona_discovery.stay_awake import stay_awake

log = logging.getLogger(__name__)

EXPIRY_INTERVAL_S = 0.5
ROSTER_POLL_S = 0.2
"""Interval at which the file of the roster is looked at."""
SEARCH_AGAIN_S = 10.0
"""Interval at which the key of a static peer that does not answer is searched again."""
FINAL_BEACON_DEADLINE_S = 0.5
NODE_FACTS_INTERVAL_S = 60.0
MACMON_PERIOD = 5
"""Readings of the facts for one of macmon, whose polling is blamed for aborts of the GPU."""


async def serve(settings: DiscoverySettings, stop: asyncio.Event) -> None:
    """Runs discovery until ``stop`` is set."""
    hardware = await asyncio.to_thread(detect_hardware)
    peer = f"tcp://{settings.peer_host}:{settings.peer_port or '*'}"
    proxy = BeaconProxy(settings.control_publish, settings.control_subscribe, peer)
    try:
        discovery = Discovery(settings, proxy, hardware)
        server = MetricsServer(
            settings, "POMONA_DISCOVERY_METRICS_PORT", discovery.control.on_metrics_url
        )
        try:
            await discovery.run(stop)
        finally:
            server.close()
    finally:
        proxy.close()


class Discovery:
    """One node's discovery service. Connects the sockets to the filter, peers and measurements."""

    def __init__(
        self,
        settings: DiscoverySettings,
        proxy: BeaconProxy,
        hardware: Hardware,
    ) -> None:
        self._proxy = proxy
        self._settings = settings
        self._hardware = hardware
        self._trust = installed()
        trust = self._trust
        self._filter = BeaconFilter(
            settings.cluster, settings.node, lambda: trust.roster if trust is not None else None
        )
        self._heard: dict[str, float] = {}
        self._links = PeerLinks(proxy, trust, self._heard_nodes)
        self._searched_at = 0.0
        self._node_facts = NodeFacts(interfaces=current_interfaces())
        own = self._advertised()
        self._peers = PeerTable({own, proxy.peer_endpoint}, settings.peers, time.monotonic())
        self._conflicts: frozenset[str] = frozenset()
        self._planners: dict[str, float] = {}
        self._busy: dict[str, float] = {}
        self._peer_ports: dict[str, str] = {}
        self._link_monitor = LinkMonitor(
            settings.node,
            lambda: self._node_facts.interfaces,
            self._on_link_change,
            settings.probe_interval_s,
            self._is_busy,
        )
        self._final_beacon_sent = asyncio.Event()
        self.control = ControlPlane(
            settings,
            f"{settings.node}.discovery",
            self._facts,
            {"peer": own},
        )
        identity = self.control.identity
        self._silent_services = (
            SilentServices(identity.name, settings.state_dir) if settings.end_silent else None
        )
        self._doorstep = (
            Doorstep(settings, trust, self._door_peers, self._heard_nodes, self._on_door)
            if trust is not None
            else None
        )
        self._probes = ProbeServer(identity.boot)
        # Another cluster may have the same name, but not the same id.
        cluster = trust.roster.cluster if trust is not None else settings.cluster
        self._mdns = Mdns(cluster, settings.node, identity.boot, self._on_mdns_node)

    async def run(self, stop: asyncio.Event) -> None:
        """Forwards beacons until ``stop`` is set or a socket fails."""
        self._apply(self._peers.connect_static())
        if self._trust is not None:
            loop = asyncio.get_running_loop()

            def on_roster(before: Roster, after: Roster) -> None:
                # The doorstep changes the roster in a thread, and sockets belong to this one.
                loop.call_soon_threadsafe(self._on_roster, before, after)

            self._trust.on_change(on_roster)
        async with self._forwarding() as failed, self._measuring():
            async with self.control.running():
                self.control.state = "ready"
                log.info("discovery is ready", extra={"peer": self.control.endpoints["peer"]})
                await _first_of(stop, failed)
                self.control.state = "draining"
            # The final beacon arrives through this proxy too, and must still go out to peers.
            with suppress(TimeoutError):
                async with asyncio.timeout(FINAL_BEACON_DEADLINE_S):
                    await self._final_beacon_sent.wait()

    @asynccontextmanager
    async def _forwarding(self) -> AsyncGenerator[asyncio.Future[None]]:
        """Runs a task per socket while the block runs. Yields a future of the first failure."""
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_done(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not failed.done():
                failed.set_exception(error)

        tasks = [
            asyncio.create_task(self._forward_local()),
            asyncio.create_task(self._forward_peers()),
            asyncio.create_task(self._proxy.drain_subscriptions()),
            asyncio.create_task(self._expire_periodically()),
            asyncio.create_task(self._follow_roster_file()),
            asyncio.create_task(self._connect_refused_again()),
        ]
        for task in tasks:
            task.add_done_callback(on_done)
        try:
            yield failed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._links.close()

    async def _follow_roster_file(self) -> None:
        """Takes the rosters that commands on this machine write."""
        while self._trust is not None:
            self._trust.reload()
            await asyncio.sleep(ROSTER_POLL_S)

    async def _connect_refused_again(self) -> None:
        """Connects again to peers that have refused this node, as they may not have had the newest
        roster."""
        while True:
            refused = await self._proxy.refused()
            connected = self._peers.connected()
            # An endpoint with a host name is reported by its address.
            for endpoint in [refused] if refused in connected else connected:
                self._links.search_again(endpoint)

    def _on_roster(self, before: Roster, after: Roster) -> None:
        """Closes the connections of revoked nodes, and tells everybody."""
        log.info("the roster has version %d", after.version)
        self._proxy.refresh()
        self._links.on_roster()
        for removed in self._filter.remove_strangers():
            self._heard.pop(removed.node, None)
            if removed.facts.service == "discovery":
                self._link_monitor.remove(removed.node)
        self.control.publish_now()

    def _heard_nodes(self) -> frozenset[str]:
        now = time.monotonic()
        return frozenset(node for node, at in self._heard.items() if now - at <= LEASE_S)

    @asynccontextmanager
    async def _measuring(self) -> AsyncGenerator[None]:
        """Runs mDNS and link measurements while the block runs.

        Forwarding does not depend on them, so their failures are only logged.
        """
        settings = self._settings
        try:
            await self._probes.start(settings.peer_host, settings.probe_port)
            self.control.endpoints["probe"] = f"tcp://{settings.peer_host}:{self._probes.port}"
        except LinkError as error:
            log.warning("other nodes cannot measure the link to this node: %s", error)
        tasks = [
            asyncio.create_task(self._link_monitor.run()),
            asyncio.create_task(self._refresh_periodically()),
            asyncio.create_task(self._follow_addresses()),
            asyncio.create_task(stay_awake()),
        ]
        if self._doorstep is not None:
            tasks.append(asyncio.create_task(self._doorstep.run()))
        if self._silent_services is not None:
            tasks.append(asyncio.create_task(self._silent_services.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._mdns.stop()
            await self._probes.stop()

    def _door_peers(self) -> list[str]:
        """Returns the endpoint of this service for a machine that joins."""
        endpoint = self.control.endpoints["peer"]
        port = self._proxy.peer_endpoint.rpartition(":")[2]
        # The joiner has found an address of this machine that it reaches.
        return [endpoint if self._settings.advertised_host else f"tcp://*:{port}"]

    def _on_door(self, port: int) -> None:
        """States where the doorstep is; 0 when it is closed."""
        if port:
            self.control.endpoints["door"] = f"tcp://{self._settings.peer_host}:{port}"
        else:
            self.control.endpoints.pop("door", None)
        self.control.publish_now()

    def _advertised(self) -> str:
        address = advertised_address(self._node_facts.interfaces)
        return self._settings.advertised(self._proxy.peer_endpoint, address)

    async def _follow_addresses(self) -> None:
        """Announces this machine's addresses by beacon and multicast, and every change to them."""
        await self._announce()
        await follow_addresses(
            self._node_facts.interfaces, lambda: interfaces({}), self._on_address_change
        )

    async def _on_address_change(self) -> None:
        found = await asyncio.to_thread(current_interfaces)
        self._node_facts = replace(self._node_facts, interfaces=found)
        own = self.control.endpoints["peer"] = self._advertised()
        log.info("the addresses of this machine have changed", extra={"peer": own})
        self._peers.set_own({own, self._proxy.peer_endpoint})
        self.control.publish_now()
        await self._announce()

    async def _announce(self) -> None:
        settings = self._settings
        if settings.mdns and not settings.is_local:
            addresses = addresses_of(settings.peer_host, self._node_facts.interfaces)
            is_head = self._trust is not None and self._trust.has_cluster_key
            port = int(self._proxy.peer_endpoint.rpartition(":")[2])
            await self._mdns.start(addresses, port, settings.door_port if is_head else 0)

    def _on_mdns_node(self, node: str, addresses: list[str], port: int) -> None:
        if node == self._settings.node:
            log.error("another machine has this node's name, %s: set POMONA_NODE", node)
        for address in addresses:
            self._apply(self._peers.add(f"tcp://{address}:{port}", time.monotonic()), node)

    def _on_link_change(self) -> None:
        """Adds the best addresses as peers, so that beacons do not depend on a dead one."""
        for link in self._link_monitor.facts():
            port = self._peer_ports.get(link.node, "")
            if link.address and port:
                endpoint = f"tcp://{link.address}:{port}"
                self._apply(self._peers.add(endpoint, time.monotonic()), link.node)
        self.control.publish_now()

    async def _refresh_periodically(self) -> None:
        """Reads the facts of this machine, after discovery is ready: on a Mac it takes seconds."""
        for number in itertools.count():
            before = self._node_facts
            with_macmon = self._settings.macmon and number % MACMON_PERIOD == 0
            facts = await asyncio.to_thread(
                collect_node_facts, self._settings.state_dir, None, with_macmon
            )
            if not with_macmon and not facts.celsius:
                facts = replace(facts, watts=before.watts, celsius=before.celsius)
            self._node_facts = replace(facts, interfaces=self._node_facts.interfaces)
            self.control.publish_now()
            await asyncio.sleep(NODE_FACTS_INTERVAL_S)

    async def _forward_local(self) -> None:
        while True:
            frames = await self._proxy.receive_local()
            beacon = self._admit(frames, "local")
            if beacon is None:
                continue
            if self._silent_services is not None:
                self._silent_services.on_beacon(beacon)
            await self._proxy.send_local(frames)
            await self._proxy.send_peers(frames)
            if beacon.boot == self.control.identity.boot and beacon.state == "draining":
                self._final_beacon_sent.set()

    async def _forward_peers(self) -> None:
        while True:
            frames, sender = await self._proxy.receive_peer()
            beacon = self._admit(frames, "peer", sender)
            if beacon is None:
                continue
            await self._proxy.send_local(frames)
            self._heard[beacon.node] = time.monotonic()
            own = beacon.endpoints.get("peer", "")
            for instruction in self._peers.on_beacon(beacon, time.monotonic()):
                self._apply([instruction], beacon.node if instruction.endpoint == own else "")
            if beacon.facts.service == "discovery":
                self._peer_ports[beacon.node] = beacon.endpoints.get("peer", "").rpartition(":")[2]
            self._link_monitor.on_beacon(beacon)

    async def _expire_periodically(self) -> None:
        while True:
            now = time.monotonic()
            for expired in self._filter.expire(now):
                if expired.facts.service == "discovery":
                    self._link_monitor.remove(expired.node)
            self._apply(self._peers.expire(now))
            self._report_conflicts()
            if now - self._searched_at > SEARCH_AGAIN_S:
                self._searched_at = now
                for endpoint in self._peers.unresponsive(now):
                    self._links.search_again(endpoint)
            metrics.PEERS.labels("connected").set(len(self._peers.connected()))
            metrics.PEERS.labels("heard").set(len(self._peers.live(now)))
            await asyncio.sleep(EXPIRY_INTERVAL_S)

    def _admit(self, frames: list[bytes], origin: Origin, sender: str = "") -> Beacon | None:
        verdict = self._filter.admit(frames, origin, time.monotonic(), sender)
        if isinstance(verdict, Dropped):
            metrics.DROPPED.labels(origin, verdict.reason).inc()
            log.debug("beacon dropped: %s", verdict.detail, extra={"reason": verdict.reason})
            if verdict.reason == "impostor" and sender:
                self._take_roster(frames)
            return None
        if verdict.facts.service == "planner":
            self._planners[verdict.name] = time.monotonic()
        if verdict.queued:
            self._busy[verdict.node] = time.monotonic()
        metrics.FORWARDED.labels(verdict.facts.service, origin).inc()
        return verdict

    def _take_roster(self, frames: list[bytes]) -> None:
        """Takes the roster of a member under another name than this node knows, which may be newer:
        the holder of the cluster's key may change its name."""
        with suppress(ProtocolError):
            facts = codec.decode_beacon(frames).facts
            if self._trust is not None and isinstance(facts, DiscoveryFacts):
                self._trust.offer_text(facts.roster)

    def _apply(self, instructions: list[PeerInstruction], node: str = "") -> None:
        """Carries out instructions. ``node`` is expected at the endpoints, if known."""
        for instruction in instructions:
            if instruction.action == "connect":
                self._links.connect(instruction.endpoint, node)
            else:
                self._links.disconnect(instruction.endpoint)
            log.info("peer: %s", instruction.action, extra={"endpoint": instruction.endpoint})
        if instructions:
            self.control.publish_now()

    def _report_conflicts(self) -> None:
        """Logs name conflicts that began or ended since the last call."""
        current = self._filter.conflicts
        for name in sorted(current - self._conflicts):
            log.error(
                "two processes are called %s: give each machine its own POMONA_NODE, "
                "and run each service once",
                name,
            )
        for name in sorted(self._conflicts - current):
            log.info("the name conflict of %s has ended", name)
        self._conflicts = current
        metrics.CONFLICTS.set(len(current))

    def _is_busy(self, node: str) -> bool:
        """Tells whether a service of a node has had work within the lease."""
        return time.monotonic() - self._busy.get(node, -LEASE_S) < LEASE_S

    def _facts(self) -> DiscoveryFacts:
        return DiscoveryFacts(
            hardware=self._hardware,
            peers=tuple(self._peers.live(time.monotonic())),
            machine=replace(self._node_facts, clock_s=time.time()),
            links=self._link_monitor.facts(),
            troubles=tuple(self._troubles()),
            roster=self._trust.encoded() if self._trust is not None else "",
        )

    def _troubles(self) -> list[str]:
        """Describes current problems. ``pomona doctor`` recognizes them by their wording."""
        now = time.monotonic()
        found = [f"two processes are called {name}" for name in sorted(self._filter.conflicts)]
        found += [
            f"{endpoint} of the settings does not answer"
            for endpoint in self._peers.unresponsive(now)
        ]
        found += [f"{node} does not admit this node" for node in self._links.refused_by()]
        if self._trust is not None and self._trust.member is None:
            found.append(f"this node was revoked from {self._trust.roster.name}")
        found += [denial(node, address) for node, address in self._link_monitor.denied()]
        found += [
            f"{node} cannot be reached at any of its addresses"
            for node in self._link_monitor.unreachable()
        ]
        nearby = [
            (link.node, link.address)
            for link in self._link_monitor.facts()
            if is_in_own_network(link.address)
        ]
        if trouble := self._mdns.trouble(nearby):
            found.append(trouble)
        planners = sorted(name for name, at in self._planners.items() if now - at <= LEASE_S)
        if len(planners) > 1:
            found.append(
                f"{len(planners)} planners are heard ({', '.join(planners)}): another cluster "
                f"is called {self._settings.cluster} too, or a planner runs twice"
            )
        return found[:MAX_TROUBLES]


async def _first_of(stop: asyncio.Event, failed: asyncio.Future[None]) -> None:
    """Waits for either. Raises the exception of ``failed``."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
    finally:
        stopped.cancel()
