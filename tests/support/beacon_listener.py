"""Receives the beacons of a cluster while a test runs."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable
from typing import Self

from pomona.messages.control import Beacon
from pomona.transport import BeaconReceiver
from support.waiting import DEADLINE_S, wait_until_async


class BeaconListener:
    """Subscribes to one discovery service. Needs a running event loop.

    Attributes:
        newest: the newest beacon of each service, by name.
        received: every beacon, in the order of arrival.
    """

    def __init__(self, endpoint: str, cluster: str) -> None:
        self.newest: dict[str, Beacon] = {}
        self.received: list[Beacon] = []
        self._receiver = BeaconReceiver(endpoint, cluster)
        self._task = asyncio.create_task(self._receive())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _receive(self) -> None:
        while True:
            beacon = await self._receiver.receive(0.5)
            if beacon is not None:
                self.newest[beacon.name] = beacon
                self.received.append(beacon)

    async def wait_until(
        self,
        condition: Callable[[dict[str, Beacon]], object],
        description: str,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Waits for a condition on ``newest``. Raises TimeoutError."""
        await wait_until_async(lambda: condition(self.newest), description, deadline_s)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._receiver.close()


def metrics_of(beacon: Beacon) -> str:
    """Returns the ``/metrics`` page of the service that sent a beacon."""
    with urllib.request.urlopen(beacon.endpoints["metrics"], timeout=60) as answer:
        return str(answer.read().decode())
