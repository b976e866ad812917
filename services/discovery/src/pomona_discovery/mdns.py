"""Finding nodes by multicast DNS (RFC 6762, RFC 6763), service ``_pomona._tcp``.

An entry says cluster, node and boot; only entries of this cluster are used. What cannot be
found so, across routers and VLANs, is named in the settings: both ways mix.
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
ASK_MS: Final = 3000
SEE_ITSELF_S: Final = 12.0

Found = Callable[[str, list[str], int], None]


class Mdns:
    """Announces this node and hears of others.

    Args:
        found: called with node, IPv4 addresses and port of another node of the cluster.
    """

    def __init__(self, cluster: str, node: str, boot: str, found: Found) -> None:
        self._cluster = cluster
        self._node = node
        self._boot = boot
        self._found = found
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._started_at = 0.0
        self._saw_itself = False
        self._saw: set[str] = set()
        self._failure = ""

    async def start(self, addresses: Sequence[str], port: int) -> None:
        """Announce the node at these addresses. What fails is a trouble, not an error."""
        self._started_at = asyncio.get_running_loop().time()
        try:
            self._zeroconf = AsyncZeroconf(interfaces=list(addresses), ip_version=IPVersion.V4Only)
            info = AsyncServiceInfo(
                SERVICE,
                f"{self._cluster}-{self._node}-{self._boot[:6]}.{SERVICE}",
                addresses=[socket.inet_aton(address) for address in addresses],
                port=port,
                properties={"cluster": self._cluster, "node": self._node, "boot": self._boot},
                server=f"{self._node}-{self._boot[:6]}.local.",
            )
            self._browser = AsyncServiceBrowser(
                self._zeroconf.zeroconf, SERVICE, handlers=[self._changed]
            )
            await self._zeroconf.async_register_service(info)
        except (OSError, NonUniqueNameException, RuntimeError) as error:
            self._failure = f"multicast DNS cannot be used: {error}"
            log.warning("%s; name other nodes in POMONA_DISCOVERY_PEERS", self._failure)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._browser is not None:
            await self._browser.async_cancel()
        if self._zeroconf is not None:
            await self._zeroconf.async_unregister_all_services()
            await self._zeroconf.async_close()

    def trouble(self, near: Iterable[tuple[str, str]] = ()) -> str:
        """What is wrong, in words; empty when nothing is.

        Args: near: node and address of others in the same network, found in other ways.
        """
        if self._failure:
            return self._failure
        waited_s = asyncio.get_running_loop().time() - self._started_at
        if self._zeroconf is None or waited_s < SEE_ITSELF_S:
            return ""
        if not self._saw_itself:
            return "multicast does not come back: a firewall or the network holds it up"
        unseen = [f"{node} ({address})" for node, address in near if node not in self._saw]
        if unseen:
            return f"no multicast comes from {', '.join(unseen)}, though in the same network"
        return ""

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            return
        task = asyncio.ensure_future(self._ask(zeroconf, name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, zeroconf: Zeroconf, name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        if not await info.async_request(zeroconf, ASK_MS) or not info.port:
            return
        properties = info.decoded_properties
        if properties.get("cluster") != self._cluster:
            return
        if properties.get("boot") == self._boot:
            self._saw_itself = True
            return
        self._saw.add(properties.get("node") or "")
        addresses = info.parsed_addresses(IPVersion.V4Only)
        self._found(properties.get("node") or "", addresses, info.port)
