"""Limits what strangers cost at the doorstep: connections, bytes and time.

A connection that begins with ``KEY_QUESTION`` is told the head's public key, which the joiner
compares with its invitation before it says anything else. Any other is joined to the doorstep's own
Unix socket, byte by byte.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

from pomona.trust.head_key import KEY_QUESTION, key_answer

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 64
MAX_CONNECTIONS_PER_ADDRESS: Final = 8
MAX_BYTES_IN: Final = 64 << 10
"""Bytes that one connection may send."""
MAX_BYTES_OUT: Final = 4 << 20
FIRST_BYTE_S: Final = 2.0
LIFETIME_S: Final = 60.0
_CHUNK: Final = 16 << 10


class Gatekeeper:
    """TCP server in front of a Unix socket.

    Args:
        public_key: the head's, hexadecimal.
    """

    def __init__(self, public_key: str) -> None:
        self._answer = key_answer(public_key)
        self._folder = tempfile.TemporaryDirectory(prefix="pomona-")
        self._socket = Path(self._folder.name) / "door"
        self._connections: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.refused = 0

    @property
    def inner_endpoint(self) -> str:
        """Endpoint of the Unix socket, to be bound by the doorstep's server."""
        return f"ipc://{self._socket}"

    @property
    def port(self) -> int:
        """Port that is bound; 0 before."""
        return self._server.sockets[0].getsockname()[1] if self._server else 0

    async def start(self, host: str, port: int) -> None:
        """Binds the TCP port. Raises OSError."""
        self._server = await asyncio.start_server(
            self._on_connection, host, port, limit=_CHUNK, backlog=MAX_CONNECTIONS
        )

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        self._folder.cleanup()

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        full = self._connections.total() >= MAX_CONNECTIONS
        if full or self._connections[address] >= MAX_CONNECTIONS_PER_ADDRESS:
            self.refused += 1
            writer.transport.abort()
            return
        self._connections[address] += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)

        def on_done(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            self._connections[address] -= 1
            if not self._connections[address]:
                del self._connections[address]
            writer.transport.abort()
            if not done.cancelled() and (error := done.exception()) is not None:
                log.debug("a connection to the doorstep ended: %s", error)

        task.add_done_callback(on_done)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
            async with asyncio.timeout(FIRST_BYTE_S):
                begin = await reader.readexactly(1)
                if begin == KEY_QUESTION[:1]:
                    rest = await reader.readexactly(len(KEY_QUESTION) - 1)
                    if begin + rest == KEY_QUESTION:
                        writer.write(self._answer)
                        await writer.drain()
                        writer.write_eof()
                        # The joiner closes; ending first could drop what it has not read.
                        await reader.read(1)
                    return
            async with asyncio.timeout(LIFETIME_S):
                await self._join(begin, reader, writer)

    async def _join(
        self, begin: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._socket)
        try:
            inner_writer.write(begin)
            tasks = [
                asyncio.create_task(_copy(reader, inner_writer, MAX_BYTES_IN)),
                asyncio.create_task(_copy(inner_reader, writer, MAX_BYTES_OUT)),
            ]
            try:
                await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            inner_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_bytes: int) -> None:
    """Copies until the end or until ``max_bytes`` have passed."""
    while max_bytes > 0 and (chunk := await reader.read(_CHUNK)):
        max_bytes -= len(chunk)
        writer.write(chunk)
        await writer.drain()
