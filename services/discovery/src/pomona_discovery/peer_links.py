"""Connections to peers: finds the key of each, and closes those to nodes that were revoked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pomona.errors import LinkError
from pomona.transport import BeaconProxy, find_member
from pomona.trust import Member, Trust

log = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 0.1
MAX_RETRY_S: Final = 2.0


@dataclass(slots=True)
class _Peer:
    """Attributes:
    hint: name of the node that a beacon or multicast stated; empty when none did.
    key: key of the node that is connected; empty while it is searched.
    refused_by: name of the node that does not admit this one.
    """

    hint: str = ""
    key: str = ""
    refused_by: str = ""
    search: asyncio.Task[None] | None = None


class PeerLinks:
    """The peers to which beacons are sent.

    Args:
        trust: keys of this node; None in tests without encryption.
        heard: returns the names of the nodes whose beacons arrive now.
    """

    def __init__(
        self, proxy: BeaconProxy, trust: Trust | None, heard: Callable[[], frozenset[str]]
    ) -> None:
        self._proxy = proxy
        self._trust = trust
        self._heard = heard
        self._peers: dict[str, _Peer] = {}

    def connect(self, endpoint: str, hint: str = "") -> None:
        """Starts sending to a peer, once its key is found."""
        if self._trust is None:
            self._connect(endpoint, "")
            return
        peer = self._peers.setdefault(endpoint, _Peer())
        peer.hint = hint or peer.hint
        if peer.search is None and not peer.key:
            peer.search = asyncio.create_task(self._search(endpoint, peer))

    def disconnect(self, endpoint: str) -> None:
        """Stops sending to a peer."""
        if self._trust is None:
            self._proxy.disconnect_peer(endpoint)
            return
        peer = self._peers.pop(endpoint, None)
        if peer is None:
            return
        if peer.search is not None:
            peer.search.cancel()
        if peer.key:
            self._proxy.disconnect_peer(endpoint)

    def search_again(self, endpoint: str) -> None:
        """Looks for another node at an endpoint whose node is silent."""
        peer = self._peers.get(endpoint)
        if peer is not None and peer.key:
            self.disconnect(endpoint)
            self.connect(endpoint, peer.hint)

    def on_roster(self) -> None:
        """Closes the connections to nodes, or with keys, that are not in the roster any more."""
        assert self._trust is not None
        for endpoint, peer in list(self._peers.items()):
            if peer.key and self._trust.roster.by_key(peer.key) is None:
                self.disconnect(endpoint)
                self.connect(endpoint, peer.hint)

    def refused_by(self) -> list[str]:
        """Returns the nodes that do not admit this one."""
        return sorted({peer.refused_by for peer in self._peers.values() if peer.refused_by})

    async def close(self) -> None:
        tasks = [peer.search for peer in self._peers.values() if peer.search is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _search(self, endpoint: str, peer: _Peer) -> None:
        assert self._trust is not None
        wait_s = FIRST_RETRY_S
        while True:
            candidates = self._candidates(self._trust, peer.hint)
            member, outcome = await find_member(self._trust, endpoint, candidates)
            peer.refused_by = member.name if member is not None and outcome == "refused" else ""
            if member is not None and outcome == "admitted":
                if self._connect(endpoint, member.key):
                    peer.key = member.key
                    log.info("peer %s is %s", endpoint, member.name)
                peer.search = None
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_RETRY_S)

    def _candidates(self, trust: Trust, hint: str) -> list[Member]:
        """Returns the members to try: the stated one first, then those that are not heard yet, and
        last this node, which settings may name as its own peer."""
        heard, own = self._heard(), trust.keys.id
        return sorted(
            trust.roster.members, key=lambda x: (x.id == own, x.name != hint, x.name in heard)
        )

    def _connect(self, endpoint: str, key: str) -> bool:
        try:
            self._proxy.connect_peer(endpoint, key)
        except LinkError as error:
            log.warning("%s", error)
            return False
        return True
