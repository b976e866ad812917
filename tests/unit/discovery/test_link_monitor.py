"""The best address by measurement; probes that answer, and that refuse what is no probe."""

from __future__ import annotations

import asyncio

from pomona.messages.discovery import Interface, LinkFacts, NodeFacts
from pomona_discovery.link_monitor import LinkMonitor, addresses_of, kind_towards
from pomona_discovery.link_probe import Measured, ProbeServer, best_of, measure
from support.beacons import beacon_of
from support.ports import free_port
from support.waiting import wait_until_async

THUNDERBOLT = Measured("169.254.1.2", 200e-6, 1e-5, 4e9, 1e8)
ETHERNET = Measured("10.0.0.2", 300e-6, 1e-5, 1.1e9, 1e7)
WIFI = Measured("192.168.1.2", 4e-3, 1e-3, 5e7, 1e7)
INTERFACES = (
    Interface("lo0", "loopback", "127.0.0.1"),
    Interface("en0", "ethernet", "10.0.0.1"),
    Interface("en1", "wifi", "192.168.1.1"),
    Interface("bridge0", "thunderbolt", "169.254.1.1"),
)


def test_thunderbolt_goes_before_ethernet_before_wifi() -> None:
    assert best_of([WIFI, ETHERNET, THUNDERBOLT], "") == THUNDERBOLT
    assert best_of([WIFI, ETHERNET], THUNDERBOLT.address) == ETHERNET
    assert best_of([], "") is None


def test_an_address_in_use_stays_unless_another_is_clearly_quicker() -> None:
    nearly = Measured("10.0.0.3", 280e-6, 1e-5, 1.15e9, 1e7)
    assert best_of([ETHERNET, nearly], ETHERNET.address) == ETHERNET
    assert best_of([ETHERNET, THUNDERBOLT], ETHERNET.address) == THUNDERBOLT


def test_addresses_and_kinds() -> None:
    assert addresses_of("0.0.0.0", INTERFACES) == ("10.0.0.1", "192.168.1.1", "169.254.1.1")
    assert addresses_of("10.0.0.9", INTERFACES) == ("10.0.0.9",)
    for one, kind in ((THUNDERBOLT, "thunderbolt"), (ETHERNET, "ethernet"), (WIFI, "wifi")):
        assert kind_towards(one.address, INTERFACES) == kind


def test_a_way_is_measured_and_a_dead_address_is_replaced() -> None:
    async def body() -> None:
        server = ProbeServer()
        await server.start("127.0.0.1", 0)
        changes: list[int] = []
        links = LinkMonitor("a", lambda: INTERFACES, lambda: changes.append(1), pause_s=60)
        other = (
            Interface("en0", "ethernet", "127.0.0.1"),
            Interface("en1", "ethernet", "127.66.0.1"),
        )
        links.on_beacon(
            beacon_of(
                "discovery",
                "b",
                endpoints={"probe": f"tcp://0.0.0.0:{server.port}"},
                facts={"machine": NodeFacts(interfaces=other)},
            )
        )
        task = asyncio.create_task(links.run())
        try:
            await wait_until_async(lambda: changes, "the ways to be measured")
            (link,) = links.facts()
            assert (link.node, link.address, link.dead) == ("b", "127.0.0.1", ("127.66.0.1",))
            assert 0 < link.rtt_us < 1e5
            assert link.bytes_per_s > 1e6
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.stop()

    asyncio.run(body())


def test_a_way_that_the_other_end_found_dead_is_measured_again_at_once() -> None:
    async def body() -> None:
        server = ProbeServer()
        await server.start("127.0.0.1", 0)
        links = LinkMonitor("a", lambda: INTERFACES, lambda: None, pause_s=3600)
        probe = {"probe": f"tcp://127.0.0.1:{server.port}"}
        links.on_beacon(beacon_of("discovery", "b", endpoints=probe))
        task = asyncio.create_task(links.run())
        try:
            await wait_until_async(lambda: links.facts()[0].address, "the way to be measured")
            await server.stop()
            told = LinkFacts("a", "", "", 0.0, 0.0, 0.0, 0.0, dead=("10.0.0.1",))
            links.on_beacon(beacon_of("discovery", "b", endpoints=probe, facts={"links": (told,)}))
            await wait_until_async(lambda: links.unreachable() == ["b"], "it to be found dead")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.stop()

    asyncio.run(body())


def test_nobody_there_is_no_measurement_and_what_is_no_probe_is_hung_up_on() -> None:
    async def body() -> None:
        assert await measure("127.0.0.1", free_port()) is None
        server = ProbeServer()
        await server.start("127.0.0.1", 0)
        try:
            for line in (b"GET / HTTP/1.1\r\n\r\n", b"take 99999999999\n", b"echo -1\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(line)
                async with asyncio.timeout(10):
                    assert await reader.read(10) == b""
                writer.close()
        finally:
            await server.stop()

    asyncio.run(body())
