"""Sockets of a discovery service, which forwards beacons between services and nodes."""

from __future__ import annotations

from collections.abc import Sequence

import zmq
import zmq.asyncio

from pomona.errors import LinkError
from pomona.messages.limits import MAX_BEACON_BYTES
from pomona.transport import curve
from pomona.transport.beacons import CONTROL_HIGH_WATER_MARK
from pomona.transport.curve import Audience, Listener, be_client, sender_of
from pomona.transport.sockets import CLOSE_LINGER_MS, configure, context
from pomona.trust import Trust


class BeaconProxy:
    """XSUB and XPUB for the services of this node, SUB and PUB for other nodes.

    Args:
        publish: endpoint at which services of this node publish (bound XSUB).
        subscribe: endpoint at which services of this node subscribe (bound XPUB).
        peer: endpoint at which other discovery services publish (bound SUB). This one
            publishes to theirs from one PUB that is connected to all peers.
        trust: keys of the node; by default those of this process.
    """

    def __init__(self, publish: str, subscribe: str, peer: str, trust: Trust | None = None) -> None:
        self._trust = trust = trust or curve.installed(publish)
        sockets = zmq.asyncio.Context(context())
        self._local_in = sockets.socket(zmq.XSUB)
        self._local_out = sockets.socket(zmq.XPUB)
        self._peer_in = sockets.socket(zmq.SUB)
        self._peer_out = sockets.socket(zmq.PUB)
        self._sockets = [self._local_in, self._local_out, self._peer_in, self._peer_out]
        for socket in self._sockets:
            configure(socket, CONTROL_HIGH_WATER_MARK, MAX_BEACON_BYTES)
        self._listeners: list[Listener] = []
        self._refusals: zmq.asyncio.Socket | None = None
        places: tuple[tuple[zmq.asyncio.Socket, str, str, Audience], ...] = (
            (self._local_in, publish, "POMONA_CONTROL_PUBLISH", "node"),
            (self._local_out, subscribe, "POMONA_CONTROL_SUBSCRIBE", "node"),
            (self._peer_in, peer, "POMONA_DISCOVERY_PEER_PORT", "members"),
        )
        try:
            for socket, endpoint, setting, audience in places:
                self._listeners.append(Listener(socket, endpoint, setting, trust, audience))
            self.peer_endpoint = self._listeners[-1].endpoint
        except LinkError:
            self.close()
            raise
        self._refusals = self._peer_out.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        # An XSUB subscribes by sending a subscription message; this one matches all topics.
        self._local_in.send(b"\x01")
        self._peer_in.setsockopt(zmq.SUBSCRIBE, b"")

    async def receive_local(self) -> list[bytes]:
        """Receives frames from a service of this node.

        Only one task may call it, and it must not be cancelled before shutdown.
        """
        return await self._local_in.recv_multipart()

    async def receive_peer(self) -> tuple[list[bytes], str]:
        """Receives frames from another discovery service, under the same rule.

        Returns:
            The frames, and the id of the node whose connection brought them; empty without keys.
        """
        frames = await self._peer_in.recv_multipart(copy=False)
        return [frame.bytes for frame in frames], sender_of(frames[0])

    async def refused(self) -> str:
        """Returns the endpoint of a peer that has refused this node; libzmq gives such a connection
        up.

        Only one task may call it, and it must not be cancelled before shutdown.
        """
        assert self._refusals is not None
        return (await self._refusals.recv_multipart())[1].decode("ascii", "replace")

    async def drain_subscriptions(self) -> None:
        """Discards the subscription messages that XPUB receives. Runs until cancelled."""
        while True:
            await self._local_out.recv()

    async def send_local(self, frames: Sequence[bytes]) -> None:
        await self._local_out.send_multipart(frames)

    async def send_peers(self, frames: Sequence[bytes]) -> None:
        await self._peer_out.send_multipart(frames)

    def refresh(self) -> None:
        """Closes the peers' connections when one was revoked. Members connect again."""
        for listener in self._listeners:
            listener.refresh()

    def connect_peer(self, endpoint: str, key: str = "") -> None:
        """Starts sending to a peer. Raises LinkError when the endpoint is not valid.

        Args:
            key: public key of the peer; empty where nothing is encrypted.
        """
        if self._trust is not None:
            be_client(self._peer_out, self._trust, key)
        try:
            self._peer_out.connect(endpoint)
        except zmq.ZMQError as error:
            raise LinkError(f"{endpoint} is not a valid peer endpoint: {error}") from error

    def disconnect_peer(self, endpoint: str) -> None:
        self._peer_out.disconnect(endpoint)

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        if self._refusals is not None:
            self._peer_out.disable_monitor()
            self._refusals.close(linger=0)
        for socket in self._sockets:
            socket.close(linger=CLOSE_LINGER_MS)
