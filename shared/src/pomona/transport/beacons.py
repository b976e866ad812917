"""Control plane, for asyncio: :class:`BeaconSender` and :class:`BeaconReceiver` connect to the
discovery service of their node, whose sockets are a :class:`BeaconProxy`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import zmq
import zmq.asyncio

from pomona.errors import LinkError, ProtocolError
from pomona.messages import codec, limits
from pomona.messages.control import Beacon
from pomona.transport.sockets import FAREWELL_LINGER_MS, bind, configure, context

CONTROL_HIGH_WATER_MARK: Final = 1024


class BeaconSender:
    """Publishes beacons to the discovery service of this node.

    Closing lets the last beacon, which is the farewell, leave first.
    """

    def __init__(self, endpoint: str) -> None:
        self._socket = context().socket(zmq.PUB)
        configure(self._socket, CONTROL_HIGH_WATER_MARK, limits.MAX_BEACON_BYTES)
        self._socket.connect(endpoint)

    def send(self, beacon: Beacon) -> None:
        """Never blocks: a beacon that cannot go is lost, and the next one replaces it."""
        self._socket.send_multipart(codec.encode_beacon(beacon), flags=zmq.DONTWAIT)

    def close(self) -> None:
        self._socket.close(linger=FAREWELL_LINGER_MS)


class BeaconReceiver:
    """Hears every beacon of the cluster through the discovery service of this node.

    One task lives as long as the receiver and feeds a bounded queue: cancelling a receive
    can lose a message, so no receive is ever cancelled but at the end.
    """

    def __init__(self, endpoint: str, cluster: str) -> None:
        self.refused = 0
        self._cluster = cluster
        self._socket = zmq.asyncio.Context(context()).socket(zmq.SUB)
        configure(self._socket, CONTROL_HIGH_WATER_MARK, limits.MAX_BEACON_BYTES)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"beacon/")
        self._socket.connect(endpoint)
        self._queue: asyncio.Queue[Beacon] = asyncio.Queue(CONTROL_HIGH_WATER_MARK)
        self._task = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            try:
                beacon = codec.decode_beacon(frames)
            except ProtocolError:
                self.refused += 1
                continue
            if beacon.cluster != self._cluster:
                self.refused += 1
            elif not self._queue.full():
                self._queue.put_nowait(beacon)

    async def receive(self, timeout_s: float) -> Beacon | None:
        """The next beacon, or None when none came in time."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close(linger=0)


class BeaconProxy:
    """The sockets of a discovery service.

    Services of this node publish to ``publish`` (XSUB) and hear everything at
    ``subscribe`` (XPUB). Other nodes' switchboards publish to ``peer`` (a bound SUB), and
    this one to theirs (one PUB, connected to each).
    """

    def __init__(self, publish: str, subscribe: str, peer: str) -> None:
        sockets = zmq.asyncio.Context(context())
        self._local_in = sockets.socket(zmq.XSUB)
        self._local_out = sockets.socket(zmq.XPUB)
        self._peer_in = sockets.socket(zmq.SUB)
        self._peer_out = sockets.socket(zmq.PUB)
        self._sockets = [self._local_in, self._local_out, self._peer_in, self._peer_out]
        for socket in self._sockets:
            configure(socket, CONTROL_HIGH_WATER_MARK, limits.MAX_BEACON_BYTES)
        try:
            bind(self._local_in, publish, "POMONA_CONTROL_PUBLISH")
            bind(self._local_out, subscribe, "POMONA_CONTROL_SUBSCRIBE")
            self.peer_endpoint = bind(self._peer_in, peer, "POMONA_DISCOVERY_PEER_PORT")
        except LinkError:
            self.close()
            raise
        # XSUB asks its publishers for everything by sending a subscription itself.
        self._local_in.send(b"\x01")
        self._peer_in.setsockopt(zmq.SUBSCRIBE, b"")

    async def receive_local(self) -> list[bytes]:
        """Frames published by a service of this node. One task only; never cancelled midway."""
        return await self._local_in.recv_multipart()

    async def receive_peer(self) -> list[bytes]:
        """Frames published by another node's switchboard."""
        return await self._peer_in.recv_multipart()

    async def drain_subscriptions(self) -> None:
        """Take in what XPUB reports of its subscribers, for ever; it is not needed."""
        while True:
            await self._local_out.recv()

    async def send_local(self, frames: Sequence[bytes]) -> None:
        await self._local_out.send_multipart(frames)

    async def send_peers(self, frames: Sequence[bytes]) -> None:
        await self._peer_out.send_multipart(frames)

    def connect_peer(self, endpoint: str) -> None:
        """Send to this switchboard too. Raises LinkError when it is no address."""
        try:
            self._peer_out.connect(endpoint)
        except zmq.ZMQError as error:
            raise LinkError(f"{endpoint} is no address of a peer: {error}") from error

    def disconnect_peer(self, endpoint: str) -> None:
        self._peer_out.disconnect(endpoint)

    def close(self) -> None:
        for socket in self._sockets:
            socket.close(linger=FAREWELL_LINGER_MS)
