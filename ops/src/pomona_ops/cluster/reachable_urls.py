"""URLs of gateways with addresses that are valid on another machine. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

from pomona.addresses import WILDCARD_HOSTS, is_loopback
from pomona.messages.control import Beacon, GatewayFacts
from pomona.messages.discovery import DiscoveryFacts


def reachable_urls(beacons: Iterable[Beacon], node: str) -> tuple[str, ...]:
    """Returns the URLs of all gateways that ``node`` reaches, with addresses valid there."""
    newest = list(beacons)
    found: list[str] = []
    for beacon in newest:
        if isinstance(beacon.facts, GatewayFacts):
            url = _reachable(beacon.facts.url, beacon.node, node, newest)
            if url:
                found.append(url)
    return tuple(found)


def _reachable(url: str, owner: str, node: str, beacons: Iterable[Beacon]) -> str:
    """Returns a gateway's URL for ``node``; empty when it does not reach it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_any = host in WILDCARD_HOSTS
    if owner == node or not node:
        return url if not is_any else _with_host(url, "127.0.0.1")
    if is_loopback(host):
        return ""
    return _with_host(url, _address(owner, node, beacons)) if is_any else url


def _address(owner: str, node: str, beacons: Iterable[Beacon]) -> str:
    """Returns the address at which ``node`` reaches another one; empty when unknown."""
    announced = ""
    for beacon in beacons:
        if not isinstance(beacon.facts, DiscoveryFacts):
            continue
        if beacon.node == node:
            for link in beacon.facts.links:
                if link.node == owner and link.address:
                    return link.address
        elif beacon.node == owner:
            peer = beacon.endpoints.get("peer", "").removeprefix("tcp://")
            announced = peer.rpartition(":")[0]
    return "" if announced in WILDCARD_HOSTS or is_loopback(announced) else announced


def _with_host(url: str, host: str) -> str:
    if not host:
        return ""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host))
