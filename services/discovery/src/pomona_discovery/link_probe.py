"""Measures round trip and throughput to the discovery services of other nodes over TCP.

A request is a line, ``echo <bytes>`` or ``take <bytes>``, followed by that many bytes. The response
is the same bytes, or one byte after all were received. The line ``boot 0`` is answered by a line
with the boot id, because an address may belong to another machine: every Mac that runs virtual
machines has 192.168.64.1. Sizes are bounded. Any other input, or DEADLINE_S without input, closes
the connection.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pomona.ports import bind_free_port

SMALL_BYTES: Final = 64
ROUND_TRIPS: Final = 20
FIRST_LARGE_BYTES: Final = 256 << 10
MAX_LARGE_BYTES: Final = 32 << 20
TARGET_S: Final = 0.08
"""Duration for which a large message is sized: measurable, without much load."""
LARGE_ROUNDS: Final = 3
DEADLINE_S: Final = 5.0
CONNECT_DEADLINE_S: Final = 1.5
MAX_CONNECTIONS: Final = 16
MAX_LINE: Final = 64
CHUNK: Final = 256 << 10
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
        self._server: asyncio.Server | None = None
        self._connections = 0
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Starts listening. Raises OSError when the address cannot be bound."""
        listener = _bind(host, port) if port else bind_free_port(lambda free: _bind(host, free))
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=1 << 16)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                while await self._respond(reader, writer):
                    pass
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            # At shutdown asyncio's server would log the cancellation of its own task.
            pass
        finally:
            self._connections -= 1
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with asyncio.timeout(DEADLINE_S):
            line = await reader.readline()
            if not line:
                return False
            kind, _, size_text = line[:MAX_LINE].decode("ascii").strip().partition(" ")
            size = int(size_text)
            if kind == "boot":
                writer.write(self._boot.encode("ascii") + b"\n")
            elif kind == "echo" and 0 < size <= SMALL_BYTES:
                writer.write(await reader.readexactly(size))
            elif kind == "take" and 0 < size <= MAX_LARGE_BYTES:
                while size > 0:
                    size -= len(await reader.readexactly(min(size, CHUNK)))
                writer.write(b"\n")
            else:
                raise ValueError("not a valid probe request")
            await writer.drain()
        return True


async def measure(
    address: str,
    port: int,
    boot: str,
    on_error: Callable[[OSError], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> LinkMeasurement | None:
    """Measures the link to an address.

    Returns None when no discovery with this boot id answers. ``on_error`` gets the error of a
    connection that the system refused.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            reader, writer = await asyncio.open_connection(address, port)
        async with asyncio.timeout(DEADLINE_S):
            own = str(writer.get_extra_info("sockname", ("",))[0])
            writer.write(b"boot 0\n")
            if await reader.readline() != boot.encode("ascii") + b"\n":
                return None
            trips: list[float] = []
            for _ in range(ROUND_TRIPS):
                begin = clock()
                writer.write(b"echo %d\n" % SMALL_BYTES + bytes(SMALL_BYTES))
                await reader.readexactly(SMALL_BYTES)
                trips.append(clock() - begin)
            rtt_s, rtt_spread_s = median_and_spread(trips)
            rates: list[float] = []
            size = FIRST_LARGE_BYTES
            for number in range(LARGE_ROUNDS + 1):
                begin = clock()
                await _send_large(writer, size)
                await reader.readexactly(1)
                taken = max(clock() - begin - rtt_s, 1e-6)
                if number:
                    rates.append(size / taken)
                else:
                    size = int(min(max(size * TARGET_S / taken, 4096), MAX_LARGE_BYTES))
        rate, spread = median_and_spread(rates)
        return LinkMeasurement(address, rtt_s, rtt_spread_s, rate, spread, own)
    except (TimeoutError, asyncio.IncompleteReadError, ValueError):
        return None
    except OSError as error:
        on_error(error)
        return None
    finally:
        if writer is not None:
            writer.close()


async def _send_large(writer: asyncio.StreamWriter, size: int) -> None:
    writer.write(b"take %d\n" % size)
    block = bytes(CHUNK)
    while size > 0:
        writer.write(block[:size])
        size -= CHUNK
        await writer.drain()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, reuse_port=False)
