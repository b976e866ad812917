"""A process without descriptors answers with 503, and logs one line a second."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from contextlib import ExitStack

import pytest

from pomona_gateway.http.descriptors import DescriptorReserve

CLIENTS = 30


@pytest.mark.slow
def test_connections_without_a_descriptor_get_503_and_one_line_of_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)

    async def scenario(clients: list[socket.socket], listener: socket.socket) -> list[bytes]:
        loop = asyncio.get_running_loop()
        reserve = DescriptorReserve()
        reserve.install(loop)
        server = await loop.create_server(asyncio.Protocol, sock=listener, backlog=2048)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = os.dup(0)
        os.close(used)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        try:
            for client in clients:
                await loop.sock_connect(client, listener.getsockname())
                await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            async with asyncio.timeout(20):
                return [await loop.sock_recv(client, 65536) for client in clients]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            server.close()
            reserve.close()

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048))
        listener.setblocking(False)
        clients = [stack.enter_context(socket.socket()) for _ in range(CLIENTS)]
        for client in clients:
            client.setblocking(False)
        answers = asyncio.run(scenario(clients, listener))
    assert [answer.split(b" ")[1] for answer in answers] == [b"503"] * CLIENTS
    assert all(b"too_many_connections" in answer for answer in answers)
    lines = [record for record in caplog.records if "descriptor" in record.getMessage()]
    assert 1 <= len(lines) <= 3
    assert not any(record.exc_info for record in caplog.records)
