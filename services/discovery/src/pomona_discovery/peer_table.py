"""Which other nodes' switchboards this one sends to. Pure: time is a parameter (seconds).

Static peers are the ones in the settings; they stay for ever. Learnt ones are told by
beacons: a node that is heard names its own peer endpoint, so one side of a pair needs no
settings; and it names the peers it hears, so one known node leads to all. A learnt peer
that is not heard for a while is left; only peers that are heard are named to others, so a
dead one is not passed around for ever.
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
PEER_SILENCE_S = 30.0
SILENT_S = 10.0
"""After which a peer of the settings is said not to answer."""
PEER_PATTERN = r"^tcp://[A-Za-z0-9._-]{1,200}:[0-9]{1,5}$"

_PEER = re.compile(PEER_PATTERN)


@dataclass(frozen=True, slots=True)
class Link:
    """An instruction: begin (``connect``) or stop (``disconnect``) to send to a peer."""

    action: Literal["connect", "disconnect"]
    endpoint: str


@dataclass(slots=True)
class _Peer:
    static: bool
    learnt_at: float
    heard_at: float | None = None

    def silent_since(self) -> float:
        return self.learnt_at if self.heard_at is None else self.heard_at


class PeerTable:
    """The peers in use.

    Args:
        own: endpoints under which this switchboard itself is reached; never connected.
        static: endpoints from the settings.
    """

    def __init__(self, own: Iterable[str], static: Iterable[str], now: float) -> None:
        self._own = frozenset(own)
        self._peers = {x: _Peer(True, now) for x in static if x not in self._own}

    def begin(self) -> list[Link]:
        """What to do at the start."""
        return [Link("connect", endpoint) for endpoint in self._peers]

    def on_beacon(self, beacon: Beacon, now: float) -> list[Link]:
        """Take in a beacon that a peer sent."""
        if not isinstance(beacon.facts, DiscoveryFacts):
            return []
        links: list[Link] = []
        endpoint = beacon.endpoints.get("peer", "")
        links += self._learn(endpoint, now)
        if endpoint in self._peers:
            self._peers[endpoint].heard_at = now
        for other in beacon.facts.peers:
            links += self._learn(other, now)
        return links

    def offer(self, endpoint: str, now: float) -> list[Link]:
        """Take in an endpoint that was found otherwise: by multicast, or by measuring."""
        return self._learn(endpoint, now)

    def expire(self, now: float) -> list[Link]:
        """Leave the learnt peers that were silent too long."""
        gone = [
            endpoint
            for endpoint, peer in self._peers.items()
            if not peer.static and now - peer.silent_since() > PEER_SILENCE_S
        ]
        for endpoint in gone:
            del self._peers[endpoint]
        return [Link("disconnect", endpoint) for endpoint in gone]

    def connected(self) -> list[str]:
        """The endpoints in use, whether somebody answers there or not."""
        return sorted(self._peers)

    def silent(self, now: float) -> list[str]:
        """Static endpoints whose node has not spoken for long."""
        return sorted(
            endpoint
            for endpoint, peer in self._peers.items()
            if peer.static and now - peer.silent_since() > SILENT_S
        )

    def heard(self, now: float) -> list[str]:
        """The endpoints whose node speaks."""
        return sorted(
            endpoint
            for endpoint, peer in self._peers.items()
            if peer.heard_at is not None and now - peer.heard_at <= LEASE_S
        )

    def _learn(self, endpoint: str, now: float) -> list[Link]:
        known = endpoint in self._peers or endpoint in self._own
        if known or len(self._peers) >= MAX_PEERS or not _PEER.match(endpoint):
            return []
        self._peers[endpoint] = _Peer(False, now)
        return [Link("connect", endpoint)]
