"""Measures round trip and throughput to the discovery services of other nodes.

The sockets are encrypted like those of activations, so what they measure is what those get. A
request is ``echo`` or ``take`` with some bytes; the reply is the same bytes, or nothing, after all
were received. ``boot`` is answered with the boot id, because an address may belong to another
machine: every Mac that runs virtual machines has 192.168.64.1. A machine with another key is sent
nothing. Sizes are bounded. Any other request gets no reply.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pomona.addresses import at_node
from pomona.errors import LinkBusyError, LinkError
from pomona.transport import Replier, Requester

SMALL_BYTES: Final = 64
ROUND_TRIPS: Final = 20
FIRST_LARGE_BYTES: Final = 256 << 10
MAX_LARGE_BYTES: Final = 32 << 20
TARGET_S: Final = 0.08
"""Duration for which a large message is sized: measurable, without much load."""
LARGE_ROUNDS: Final = 3
DEADLINE_S: Final = 5.0
CONNECT_DEADLINE_S: Final = 1.5
POLL_S: Final = 0.1
"""Longest time within which a measurement notices its cancellation."""
TYPICAL_BYTES: Final = 64 << 10
"""Message size by which addresses are compared."""
SWITCH_FACTOR: Final = 1.25
"""Speedup that another address needs to replace the current one."""


@dataclass(frozen=True, slots=True)
class LinkMeasurement:
    """Result for one address. Spreads are half the interquartile range.

    Attributes:
        own: address of this machine from which the connection came.
    """

    address: str
    rtt_s: float
    rtt_spread_s: float
    bytes_per_s: float
    spread_bytes_per_s: float
    own: str = ""

    @property
    def typical_s(self) -> float:
        """One-way time of a message of TYPICAL_BYTES, the activations of a few tokens."""
        return self.rtt_s / 2 + TYPICAL_BYTES / self.bytes_per_s


def choose_best(measurements: Sequence[LinkMeasurement], current: str) -> LinkMeasurement | None:
    """Returns the fastest address. Keeps ``current`` unless another is clearly faster."""
    if not measurements:
        return None
    best = min(measurements, key=lambda x: x.typical_s)
    for measurement in measurements:
        is_close = measurement.typical_s < SWITCH_FACTOR * best.typical_s
        if measurement.address == current and is_close:
            return measurement
    return best


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, (high - low) / 2


class ProbeServer:
    """Responds to measurements by other nodes. ``boot`` is the boot id of this discovery."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._replier: Replier | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Starts listening. Raises LinkError when the address cannot be bound."""
        self._replier = Replier(host, port, "POMONA_DISCOVERY_PROBE_PORT", self._respond)
        self.port = int(self._replier.endpoint.rpartition(":")[2])

    async def stop(self) -> None:
        if self._replier is not None:
            await asyncio.to_thread(self._replier.close)
            self._replier = None

    def _respond(self, request: Sequence[bytes], node: str) -> list[list[bytes]]:
        match request:
            case [b"boot"]:
                return [[self._boot.encode("ascii")]]
            case [b"echo", payload] if 0 < len(payload) <= SMALL_BYTES:
                return [[payload]]
            case [b"take", payload] if 0 < len(payload) <= MAX_LARGE_BYTES:
                return [[b""]]
            case _:
                raise ValueError("not a valid probe request")


async def measure(
    address: str,
    port: int,
    boot: str,
    on_error: Callable[[OSError], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
    node: str = "",
) -> LinkMeasurement | None:
    """Measures the link to an address.

    Args:
        node: name of the node, whose key must answer there.

    Returns None when no discovery with this key and boot id answers. ``on_error`` gets the error of
    a connection that the system refused.
    """
    try:
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            _, writer = await asyncio.open_connection(address, port)
        own = str(writer.get_extra_info("sockname", ("",))[0])
        writer.close()
    except TimeoutError:
        return None
    except OSError as error:
        on_error(error)
        return None
    cancelled = threading.Event()
    try:
        found = await asyncio.to_thread(
            _measure, at_node(f"tcp://{address}:{port}", node), address, boot, clock, cancelled
        )
        return replace(found, own=own) if found is not None else None
    finally:
        cancelled.set()


def _measure(
    endpoint: str,
    address: str,
    boot: str,
    clock: Callable[[], float],
    cancelled: threading.Event,
) -> LinkMeasurement | None:
    try:
        requester = Requester(endpoint)
    except LinkError:
        return None

    def ask(*frames: bytes) -> list[bytes]:
        requester.send(*frames, timeout_s=DEADLINE_S)
        ends_at = time.monotonic() + DEADLINE_S
        while True:
            try:
                return requester.receive(POLL_S)
            except LinkBusyError:
                if cancelled.is_set() or time.monotonic() > ends_at:
                    raise

    try:
        requester.send(b"boot", timeout_s=CONNECT_DEADLINE_S)
        if requester.receive(DEADLINE_S) != [boot.encode("ascii")]:
            return None
        trips: list[float] = []
        for _ in range(ROUND_TRIPS):
            begin = clock()
            ask(b"echo", bytes(SMALL_BYTES))
            trips.append(clock() - begin)
        rtt_s, rtt_spread_s = median_and_spread(trips)
        rates: list[float] = []
        size = FIRST_LARGE_BYTES
        for number in range(LARGE_ROUNDS + 1):
            begin = clock()
            ask(b"take", bytes(size))
            taken = max(clock() - begin - rtt_s, 1e-6)
            if number:
                rates.append(size / taken)
            else:
                size = int(min(max(size * TARGET_S / taken, 4096), MAX_LARGE_BYTES))
        rate, spread = median_and_spread(rates)
        return LinkMeasurement(address, rtt_s, rtt_spread_s, rate, spread)
    except LinkBusyError:
        return None
    finally:
        requester.close()
