"""The doorstep tells its key, carries encrypted requests, and limits what strangers cost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest

from pomona.errors import LinkError
from pomona.messages.doorstep import Poll, Refused, Reply
from pomona.transport.doorstep import DoorstepClient, DoorstepServer
from pomona.trust.head_key import ask_head_key
from pomona.trust.signing import new_curve_keys
from pomona_discovery.doorstep.gatekeeper import (
    FIRST_BYTE_S,
    MAX_BYTES_IN,
    MAX_CONNECTIONS_PER_ADDRESS,
    Gatekeeper,
)
from support.waiting import DEADLINE_S, wait_until_async

HEAD, HEAD_SECRET = new_curve_keys()
PUBLIC, SECRET = new_curve_keys()
HOST = "127.0.0.1"


@asynccontextmanager
async def doorstep() -> AsyncGenerator[Gatekeeper]:
    """Yields a doorstep that answers every request with the key of its sender."""
    gatekeeper = Gatekeeper(HEAD)
    server = DoorstepServer(HEAD_SECRET, gatekeeper.inner_endpoint)
    await gatekeeper.start(HOST, 0)

    async def answer() -> None:
        while True:
            sender, key, request = await server.receive()
            await server.send(sender, Refused(request.kind, key))

    task = asyncio.create_task(answer())
    try:
        yield gatekeeper
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.close()
        await gatekeeper.close()


def ask(port: int, head_key: str = HEAD, deadline_s: float = DEADLINE_S) -> Reply:
    endpoint = f"tcp://{HOST}:{port}"
    with DoorstepClient(endpoint, head_key, PUBLIC, SECRET) as client:
        return client.ask(Poll(), deadline_s)


def test_a_request_arrives_with_the_key_that_its_sender_has_proven() -> None:
    async def main() -> None:
        async with doorstep() as gatekeeper:
            key = await asyncio.to_thread(ask_head_key, HOST, gatekeeper.port, DEADLINE_S)
            assert key == HEAD
            assert await asyncio.to_thread(ask, gatekeeper.port) == Refused("poll", PUBLIC)

    asyncio.run(main())


@pytest.mark.slow
def test_a_head_with_another_key_gets_nothing() -> None:
    async def main() -> None:
        async with doorstep() as gatekeeper:
            with pytest.raises(LinkError, match="does not have the key"):
                await asyncio.to_thread(ask, gatekeeper.port, PUBLIC, 1.0)

    asyncio.run(main())


@pytest.mark.slow
def test_half_open_connections_are_few_and_end_soon() -> None:
    async def main() -> None:
        async with doorstep() as gatekeeper:
            place = (HOST, gatekeeper.port)
            held = await asyncio.to_thread(
                lambda: [socket.create_connection(place, DEADLINE_S) for _ in range(100)]
            )
            try:
                await wait_until_async(
                    lambda: gatekeeper.refused >= 100 - MAX_CONNECTIONS_PER_ADDRESS,
                    "most are refused",
                )
                await asyncio.sleep(FIRST_BYTE_S)
                assert await asyncio.to_thread(ask, gatekeeper.port) == Refused("poll", PUBLIC)
            finally:
                for connection in held:
                    connection.close()

    asyncio.run(main())


def test_a_connection_may_send_a_limited_number_of_bytes() -> None:
    async def main() -> None:
        async with doorstep() as gatekeeper:
            reader, writer = await asyncio.open_connection(HOST, gatekeeper.port)
            writer.write(b"\xff" * (2 * MAX_BYTES_IN))
            with suppress(OSError):
                await writer.drain()
                async with asyncio.timeout(DEADLINE_S):
                    while await reader.read(65536):
                        pass
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            assert await asyncio.to_thread(ask, gatekeeper.port) == Refused("poll", PUBLIC)

    asyncio.run(main())


def test_another_program_is_not_a_head() -> None:
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(DEADLINE_S)
        port = server.getsockname()[1]

        async def main() -> None:
            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readline()
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                writer.close()
                await writer.wait_closed()

            other = await asyncio.start_server(answer, sock=server.dup())
            async with other:
                with pytest.raises(LinkError, match="not a head"):
                    await asyncio.to_thread(ask_head_key, HOST, port, DEADLINE_S)

        asyncio.run(main())
