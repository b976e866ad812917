"""Tracks the discovery services to which this one sends. Pure: time is a parameter (seconds).

Static peers come from the settings and are never removed. Dynamic peers come from beacons: each
names the sender's own peer endpoint, so only one node of a pair needs settings, and the sender's
live peers, so one known node leads to all. A dynamic peer is removed after some time without a
beacon. Beacons name live peers only, so a dead one does not spread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pomona.leases import LEASE_S
from pomona.messages.control import Beacon
from pomona.messages.discovery import DiscoveryFacts

MAX_PEERS = 64
MAX_LEARNT_PER_HOST = 4
"""Dynamic peers at one address, so that one member cannot fill the table with ports of a third."""
PEER_EXPIRY_S = 300.0
"""Time without a beacon after which a dynamic peer is removed."""
UNRESPONSIVE_S = 10.0
"""Time without a beacon after which a static peer is reported."""
PEER_PATTERN = r"^tcp://[A-Za-z0-9._-]{1,200}:[0-9]{1,5}$"

_PEER = re.compile(PEER_PATTERN)


@dataclass(frozen=True, slots=True)
class PeerInstruction:
    """Starts (``connect``) or stops (``disconnect``) sending to a peer."""

    action: Literal["connect", "disconnect"]
    endpoint: str


@dataclass(slots=True)
class _Peer:
    static: bool
    added_at: float
    last_beacon_at: float | None = None

    def silent_since(self) -> float:
        return self.added_at if self.last_beacon_at is None else self.last_beacon_at


class PeerTable:
    """The peers in use.

    Args:
        own: endpoints of this discovery service itself, which are never connected.
        static: endpoints from the settings.
    """

    def __init__(self, own: Iterable[str], static: Iterable[str], now: float) -> None:
        self._own = frozenset(own)
        self._peers = {x: _Peer(True, now) for x in static if x not in self._own}

    def set_own(self, endpoints: Iterable[str]) -> None:
        """Replaces the endpoints of this discovery service, when its addresses change."""
        self._own = frozenset(endpoints)

    def connect_static(self) -> list[PeerInstruction]:
        """Returns the instructions for startup."""
        return [PeerInstruction("connect", endpoint) for endpoint in self._peers]

    def on_beacon(self, beacon: Beacon, now: float) -> list[PeerInstruction]:
        """Processes a beacon that a peer sent."""
        if not isinstance(beacon.facts, DiscoveryFacts):
            return []
        endpoint = beacon.endpoints.get("peer", "")
        instructions = self.add(endpoint, now)
        if endpoint in self._peers:
            self._peers[endpoint].last_beacon_at = now
        for other in beacon.facts.peers:
            instructions += self.add(other, now)
        return instructions

    def add(self, endpoint: str, now: float) -> list[PeerInstruction]:
        """Adds a dynamic peer, unless it is known, not valid, or the table is full."""
        known = endpoint in self._peers or endpoint in self._own
        if known or len(self._peers) >= MAX_PEERS or not _PEER.match(endpoint):
            return []
        host = endpoint.rpartition(":")[0]
        learnt = [x for x, peer in self._peers.items() if not peer.static]
        if sum(x.rpartition(":")[0] == host for x in learnt) >= MAX_LEARNT_PER_HOST:
            return []
        self._peers[endpoint] = _Peer(False, now)
        return [PeerInstruction("connect", endpoint)]

    def expire(self, now: float) -> list[PeerInstruction]:
        """Removes dynamic peers without a beacon for PEER_EXPIRY_S."""
        expired = [
            endpoint
            for endpoint, peer in self._peers.items()
            if not peer.static and now - peer.silent_since() > PEER_EXPIRY_S
        ]
        for endpoint in expired:
            del self._peers[endpoint]
        return [PeerInstruction("disconnect", endpoint) for endpoint in expired]

    def connected(self) -> list[str]:
        """Returns all endpoints in use, live or not."""
        return sorted(self._peers)

    def unresponsive(self, now: float) -> list[str]:
        """Returns static endpoints without a beacon for UNRESPONSIVE_S."""
        return sorted(
            endpoint
            for endpoint, peer in self._peers.items()
            if peer.static and now - peer.silent_since() > UNRESPONSIVE_S
        )

    def live(self, now: float) -> list[str]:
        """Returns endpoints with a beacon within the lease."""
        return sorted(
            endpoint
            for endpoint, peer in self._peers.items()
            if peer.last_beacon_at is not None and now - peer.last_beacon_at <= LEASE_S
        )
