"""Control plane of one service, for asyncio: sends beacons to the discovery service of the same
node and receives the cluster's beacons from it."""

from __future__ import annotations

import asyncio
from typing import Final

import zmq
import zmq.asyncio

from pomona.errors import ProtocolError
from pomona.messages import codec
from pomona.messages.control import Beacon
from pomona.messages.limits import MAX_BEACON_BYTES
from pomona.transport import curve
from pomona.transport.sockets import CLOSE_LINGER_MS, configure, context
from pomona.trust import Trust

CONTROL_HIGH_WATER_MARK: Final = 1024


class BeaconSender:
    """Publishes beacons to the discovery service of this node.

    Args:
        trust: keys of the node; by default those of this process.
    """

    def __init__(self, endpoint: str, trust: Trust | None = None) -> None:
        self._socket = context().socket(zmq.PUB)
        configure(self._socket, CONTROL_HIGH_WATER_MARK, MAX_BEACON_BYTES)
        curve.connect(self._socket, endpoint, trust or curve.installed(endpoint))

    def send(self, beacon: Beacon) -> None:
        """Sends without blocking. A beacon that cannot be sent is dropped; the next replaces it."""
        self._socket.send_multipart(codec.encode_beacon(beacon), flags=zmq.DONTWAIT)

    def close(self) -> None:
        """Closes the socket after the last beacon was sent, or the linger time."""
        self._socket.close(linger=CLOSE_LINGER_MS)


class BeaconReceiver:
    """Receives every beacon of the cluster from the discovery service of this node.

    One task lives as long as the receiver and feeds a bounded queue: cancelling a receive can
    lose a message, so receives are cancelled only by :meth:`close`.

    Args:
        trust: keys of the node; by default those of this process.
    """

    def __init__(self, endpoint: str, cluster: str, trust: Trust | None = None) -> None:
        self._cluster = cluster
        self._socket = zmq.asyncio.Context(context()).socket(zmq.SUB)
        configure(self._socket, CONTROL_HIGH_WATER_MARK, MAX_BEACON_BYTES)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"beacon/")
        curve.connect(self._socket, endpoint, trust or curve.installed(endpoint))
        self._queue: asyncio.Queue[Beacon] = asyncio.Queue(CONTROL_HIGH_WATER_MARK)
        self._task = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            try:
                beacon = codec.decode_beacon(frames)
            except ProtocolError:
                continue
            if beacon.cluster == self._cluster and not self._queue.full():
                self._queue.put_nowait(beacon)

    async def receive(self, timeout_s: float) -> Beacon | None:
        """Returns the next beacon, or None at the timeout."""
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
