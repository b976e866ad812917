"""Lists the nodes that announce themselves by multicast DNS, of every cluster, for commands."""

from __future__ import annotations

import time
from dataclasses import dataclass

from zeroconf import InterfaceChoice, IPVersion, ServiceBrowser, ServiceStateChange, Zeroconf
from zeroconf import ServiceInfo as _ServiceInfo

from pomona_discovery.mdns import SERVICE

MAX_NEARBY = 256


@dataclass(frozen=True, slots=True)
class NearbyNode:
    """A node that announces itself in the local network. Nothing about it is proven.

    Attributes:
        door: port at which it lets new nodes in; 0 when it is not a head.
    """

    node: str
    cluster: str
    addresses: tuple[str, ...]
    port: int
    door: int


def nearby_nodes(listen_s: float) -> list[NearbyNode]:
    """Returns the nodes that answer within ``listen_s`` seconds, by name.

    Empty where multicast cannot be used.
    """
    names: list[str] = []

    def on_change(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Added and len(names) < MAX_NEARBY:
            names.append(name)

    try:
        zeroconf = Zeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)
    except OSError:
        return []
    try:
        ends_at = time.monotonic() + listen_s
        browser = ServiceBrowser(zeroconf, SERVICE, handlers=[on_change])
        found: dict[str, NearbyNode] = {}
        while time.monotonic() < ends_at:
            time.sleep(0.05)
            for name in [x for x in names if x not in found]:
                left_ms = int(max(ends_at - time.monotonic(), 0.1) * 1000)
                info = _ServiceInfo(SERVICE, name)
                if info.request(zeroconf, left_ms) and (node := _nearby(info)) is not None:
                    found[name] = node
        browser.cancel()
    finally:
        zeroconf.close()
    return sorted(found.values(), key=lambda x: (x.node, x.cluster))


def _nearby(info: _ServiceInfo) -> NearbyNode | None:
    properties = info.decoded_properties
    door = properties.get("door") or "0"
    if not info.port or not properties.get("node"):
        return None
    return NearbyNode(
        (properties.get("node") or "")[:64],
        (properties.get("cluster") or "")[:64],
        tuple(info.parsed_addresses(IPVersion.V4Only)),
        info.port,
        int(door) if door.isascii() and door.isdecimal() and len(door) < 6 else 0,
    )
