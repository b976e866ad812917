"""Finds nodes by multicast DNS (RFC 6762, RFC 6763), service ``_pomona._tcp``.

An entry has the cluster's id, node, boot, and the port of the head's doorstep. Only entries of this
cluster are used. Nodes behind routers and VLANs need static peers in the settings; both methods can
be combined.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from zeroconf import IPVersion, NonUniqueNameException, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

log = logging.getLogger(__name__)

SERVICE: Final = "_pomona._tcp.local."
QUERY_TIMEOUT_MS: Final = 3000
ECHO_DEADLINE_S: Final = 12.0
"""Time after the start by which this node's own announcement must have come back."""

OnNode = Callable[[str, list[str], int], None]


class Mdns:
    """Announces this node and browses for others.

    Args:
        on_node: called with node, IPv4 addresses and port of another node of the cluster.
    """

    def __init__(self, cluster: str, node: str, boot: str, on_node: OnNode) -> None:
        self._cluster = cluster
        self._node = node
        self._boot = boot
        self._on_node = on_node
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._started_at = 0.0
        self._saw_own_entry = False
        self._seen_nodes: set[str] = set()
        self._failure = ""

    async def start(self, addresses: Sequence[str], port: int, door: int = 0) -> None:
        """Announces the node at these addresses, and no longer at those of an earlier call.

        Args:
            door: port at which new nodes may ask to join; 0 for none.

        A failure is reported by :meth:`trouble`.
        """
        await self.stop()
        self._failure = ""
        if not addresses:
            return
        self._started_at = asyncio.get_running_loop().time()
        try:
            self._zeroconf = AsyncZeroconf(interfaces=list(addresses), ip_version=IPVersion.V4Only)
            info = AsyncServiceInfo(
                SERVICE,
                f"{self._cluster}-{self._node}-{self._boot[:6]}.{SERVICE}",
                addresses=[socket.inet_aton(address) for address in addresses],
                port=port,
                properties={
                    "cluster": self._cluster,
                    "node": self._node,
                    "boot": self._boot,
                    "door": str(door),
                },
                server=f"{self._node}-{self._boot[:6]}.local.",
            )
            self._browser = AsyncServiceBrowser(
                self._zeroconf.zeroconf, SERVICE, handlers=[self._on_service_change]
            )
            await self._zeroconf.async_register_service(info)
        except (OSError, NonUniqueNameException, RuntimeError) as error:
            self._failure = f"multicast DNS cannot be used: {error}"
            log.warning("%s; list other nodes in POMONA_DISCOVERY_PEERS", self._failure)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        browser, self._browser = self._browser, None
        if browser is not None:
            await browser.async_cancel()
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is not None:
            await zeroconf.async_unregister_all_services()
            await zeroconf.async_close()

    def trouble(self, nearby: Iterable[tuple[str, str]] = ()) -> str:
        """Describes the current problem. Empty when there is none.

        Args:
            nearby: node and address of known nodes in the same network.
        """
        if self._failure:
            return self._failure
        elapsed_s = asyncio.get_running_loop().time() - self._started_at
        if self._zeroconf is None or elapsed_s < ECHO_DEADLINE_S:
            return ""
        if not self._saw_own_entry:
            return "multicast does not come back: a firewall or the network blocks it"
        unseen = [f"{node} ({address})" for node, address in nearby if node not in self._seen_nodes]
        if unseen:
            return f"no multicast comes from {', '.join(unseen)} in the same network"
        return ""

    def _on_service_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            return
        task = asyncio.ensure_future(self._query(zeroconf, name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _query(self, zeroconf: Zeroconf, name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        if not await info.async_request(zeroconf, QUERY_TIMEOUT_MS) or not info.port:
            return
        properties = info.decoded_properties
        if properties.get("cluster") != self._cluster:
            return
        if properties.get("boot") == self._boot:
            self._saw_own_entry = True
            return
        self._seen_nodes.add(properties.get("node") or "")
        addresses = info.parsed_addresses(IPVersion.V4Only)
        self._on_node(properties.get("node") or "", addresses, info.port)
