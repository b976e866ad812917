"""Link probe: measurements, the choice of an address, and rejection of invalid requests."""

from __future__ import annotations

import asyncio

from pomona.transport import Requester
from pomona_discovery.link_probe import LinkMeasurement, ProbeServer, choose_best, measure
from support.ports import free_port

THUNDERBOLT = LinkMeasurement("169.254.1.2", 200e-6, 1e-5, 4e9, 1e8)
ETHERNET = LinkMeasurement("10.0.0.2", 300e-6, 1e-5, 1.1e9, 1e7)
WIFI = LinkMeasurement("192.168.1.2", 4e-3, 1e-3, 5e7, 1e7)


def test_thunderbolt_is_chosen_before_ethernet_and_ethernet_before_wifi() -> None:
    assert choose_best([WIFI, ETHERNET, THUNDERBOLT], "") == THUNDERBOLT
    assert choose_best([WIFI, ETHERNET], THUNDERBOLT.address) == ETHERNET
    assert choose_best([], "") is None


def test_the_current_address_is_kept_unless_another_is_clearly_faster() -> None:
    nearly = LinkMeasurement("10.0.0.3", 280e-6, 1e-5, 1.15e9, 1e7)
    assert choose_best([ETHERNET, nearly], ETHERNET.address) == ETHERNET
    assert choose_best([ETHERNET, THUNDERBOLT], ETHERNET.address) == THUNDERBOLT


def test_an_invalid_request_gets_no_reply_and_the_next_one_does() -> None:
    async def body() -> None:
        server = ProbeServer("b0")
        await server.start("127.0.0.1", 0)
        requester = Requester(f"tcp://127.0.0.1:{server.port}")
        try:
            for frames in (
                [b"GET /"],
                [b"echo", b""],
                [b"echo", bytes(65)],
                [b"take"],
                [b"boot", b"0"],
            ):
                requester.send(*frames, timeout_s=10)
            requester.send(b"boot", timeout_s=10)
            assert requester.receive(10) == [b"b0"]
        finally:
            requester.close()
            await server.stop()

    asyncio.run(body())


def test_an_address_without_a_listener_gives_no_measurement() -> None:
    assert asyncio.run(measure("127.0.0.1", free_port(), "b0")) is None


def test_an_address_of_another_machine_gives_no_measurement() -> None:
    async def body() -> None:
        server = ProbeServer("b0")
        await server.start("127.0.0.1", 0)
        try:
            assert await measure("127.0.0.1", server.port, "b0") is not None
            assert await measure("127.0.0.1", server.port, "another") is None
        finally:
            await server.stop()

    asyncio.run(body())
