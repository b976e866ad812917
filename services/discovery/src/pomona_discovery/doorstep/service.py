"""The doorstep: where machines that are not members ask the head to let them in.

It is open on every node that has the cluster's key. Joiners are answered one after the other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence

from pomona.errors import PomonaError, ProtocolError
from pomona.messages.doorstep import Refused, Reply
from pomona.transport.doorstep import DoorstepServer
from pomona.trust import Trust
from pomona.trust.join_ledger import LedgerFile
from pomona_discovery.doorstep.doorkeeper import Doorkeeper
from pomona_discovery.doorstep.gatekeeper import Gatekeeper
from pomona_discovery.doorstep.membership import RosterMembership
from pomona_discovery.settings import DiscoverySettings

log = logging.getLogger(__name__)

HEAD_POLL_S = 2.0
"""Interval at which a node looks whether it has become a head."""


class Doorstep:
    """Serves the doorstep while this node has the cluster's key.

    Args:
        peers: returns endpoints of the cluster's discovery services, this one's first.
        live: returns the names of the other nodes that are heard now.
        on_port: called with the bound port, and with 0 when the doorstep closes.
    """

    def __init__(
        self,
        settings: DiscoverySettings,
        trust: Trust,
        peers: Callable[[], Sequence[str]],
        live: Callable[[], Collection[str]],
        on_port: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._trust = trust
        self._on_port = on_port
        self._doorkeeper = Doorkeeper(
            LedgerFile(settings.state_dir), RosterMembership(trust, peers, live)
        )

    async def run(self) -> None:
        """Runs until cancelled. A port in use closes the doorstep, not discovery."""
        told = ""
        while True:
            if self._trust.has_cluster_key:
                try:
                    await self._serve()
                except (OSError, PomonaError) as error:
                    if str(error) != told:
                        told = str(error)
                        log.warning(
                            "new nodes cannot join: %s; set POMONA_DISCOVERY_DOOR_PORT to a free "
                            "port",
                            error,
                        )
            await asyncio.sleep(HEAD_POLL_S)

    async def _serve(self) -> None:
        """Answers joiners until this node has lost the cluster's key. Raises OSError."""
        settings, keys = self._settings, self._trust.keys
        gatekeeper = Gatekeeper(keys.public)
        try:
            server = DoorstepServer(keys.secret, gatekeeper.inner_endpoint)
            try:
                await gatekeeper.start(settings.peer_host, settings.door_port)
                self._on_port(gatekeeper.port)
                answering = asyncio.create_task(self._answer_all(server))
                try:
                    while True:
                        await asyncio.wait({answering}, timeout=HEAD_POLL_S)
                        if answering.done() or not self._trust.has_cluster_key:
                            break
                finally:
                    answering.cancel()
                    await asyncio.gather(answering, return_exceptions=True)
            finally:
                self._on_port(0)
                await server.close()
        finally:
            await gatekeeper.close()

    async def _answer_all(self, server: DoorstepServer) -> None:
        while True:
            try:
                sender, key, request = await server.receive()
            except ProtocolError as error:
                log.warning("a message at the doorstep is not valid: %s", error)
                continue
            reply: Reply
            try:
                # The ledger is a file on a disk, which may be slow.
                reply = await asyncio.to_thread(
                    self._doorkeeper.answer, request, key, time.time(), time.monotonic()
                )
            except PomonaError as error:
                log.error("a joiner cannot be answered: %s", error)
                reply = Refused("busy", "the head cannot answer now; see the log of its discovery")
            log.info(
                "doorstep: %s is answered %s", request.kind, getattr(reply, "code", reply.kind),
                extra={"key": key[:8]},
            )  # fmt: skip
            await server.send(sender, reply)
