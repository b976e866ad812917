"""Round trip and throughput to other nodes, asked of their discovery services over TCP.

A question is one line, ``echo <bytes>`` or ``take <bytes>``, then that many bytes; the
answer is the bytes themselves, or one byte when all have come. Nothing else is understood,
sizes are bounded, and a connection that is silent for a moment is closed.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

SMALL_BYTES: Final = 64
ROUND_TRIPS: Final = 20
FIRST_LARGE_BYTES: Final = 256 << 10
MOST_BYTES: Final = 32 << 20
AIM_S: Final = 0.08
"""A large message is sized to take about this long: enough to measure, little to bear."""
LARGE_ROUNDS: Final = 3
DEADLINE_S: Final = 5.0
CONNECT_S: Final = 1.5
MAX_CONNECTIONS: Final = 16
MAX_LINE: Final = 64
CHUNK: Final = 256 << 10
TYPICAL_BYTES: Final = 64 << 10
BETTER_BY: Final = 1.25


@dataclass(frozen=True, slots=True)
class Measured:
    """One address. Spreads are half the distance between the quartiles."""

    address: str
    rtt_s: float
    rtt_spread_s: float
    bytes_per_s: float
    spread_bytes_per_s: float

    @property
    def typical_s(self) -> float:
        """Time of a message as long as a few tokens' activations."""
        return self.rtt_s / 2 + TYPICAL_BYTES / self.bytes_per_s


def best_of(measured: Sequence[Measured], before: str) -> Measured | None:
    """The quickest address; the one in use stays unless another is clearly quicker."""
    if not measured:
        return None
    best = min(measured, key=lambda one: one.typical_s)
    for one in measured:
        if one.address == before and one.typical_s < BETTER_BY * best.typical_s:
            return one
    return best


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, (high - low) / 2


class ProbeServer:
    """Answers probes."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._busy = 0
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Raises OSError when the address cannot be used."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=1 << 16)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._busy += 1
        try:
            if self._busy <= MAX_CONNECTIONS:
                while await self._answer(reader, writer):
                    pass
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            # The process is ending; asyncio's server would log what its own task raises.
            pass
        finally:
            self._busy -= 1
            writer.close()

    @staticmethod
    async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with asyncio.timeout(DEADLINE_S):
            line = await reader.readline()
            if not line:
                return False
            kind, _, size_text = line[:MAX_LINE].decode("ascii").strip().partition(" ")
            size = int(size_text)
            if kind == "echo" and 0 < size <= SMALL_BYTES:
                writer.write(await reader.readexactly(size))
            elif kind == "take" and 0 < size <= MOST_BYTES:
                while size > 0:
                    size -= len(await reader.readexactly(min(size, CHUNK)))
                writer.write(b"\n")
            else:
                raise ValueError("not a probe")
            await writer.drain()
        return True


async def measure(
    address: str, port: int, clock: Callable[[], float] = time.perf_counter
) -> Measured | None:
    """Measure the way to an address; None when it does not answer."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(address, port)
        async with asyncio.timeout(DEADLINE_S):
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
                await _send(writer, size)
                await reader.readexactly(1)
                taken = max(clock() - begin - rtt_s, 1e-6)
                if number:
                    rates.append(size / taken)
                else:
                    size = int(min(max(size * AIM_S / taken, 4096), MOST_BYTES))
        rate, spread = median_and_spread(rates)
        return Measured(address, rtt_s, rtt_spread_s, rate, spread)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return None
    finally:
        if writer is not None:
            writer.close()


async def _send(writer: asyncio.StreamWriter, size: int) -> None:
    writer.write(b"take %d\n" % size)
    block = bytes(CHUNK)
    while size > 0:
        writer.write(block[:size])
        size -= CHUNK
        await writer.drain()
