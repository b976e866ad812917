"""Link monitor: finds the best address of a node and measures again when a link dies."""

from __future__ import annotations

import asyncio

from pomona.messages.discovery import Interface, LinkFacts, NodeFacts
from pomona_discovery.link_monitor import LinkMonitor
from pomona_discovery.link_probe import ProbeServer
from support.beacons import beacon_of
from support.waiting import wait_until_async

INTERFACES = (Interface("lo0", "loopback", "127.0.0.1"), Interface("en0", "ethernet", "10.0.0.1"))


def test_a_link_uses_the_address_that_answers_and_reports_the_dead_one() -> None:
    async def body() -> None:
        server = ProbeServer("boot1")
        await server.start("127.0.0.1", 0)
        changes: list[int] = []
        monitor = LinkMonitor("a", lambda: INTERFACES, lambda: changes.append(1), interval_s=60)
        other = (
            Interface("en0", "ethernet", "127.0.0.1"),
            Interface("en1", "ethernet", "127.66.0.1"),
        )
        monitor.on_beacon(
            beacon_of(
                "discovery",
                "b",
                endpoints={"probe": f"tcp://0.0.0.0:{server.port}"},
                facts={"machine": NodeFacts(interfaces=other)},
            )
        )
        task = asyncio.create_task(monitor.run())
        try:
            await wait_until_async(lambda: changes, "the link is measured")
            (link,) = monitor.facts()
            assert (link.node, link.address, link.dead) == ("b", "127.0.0.1", ("127.66.0.1",))
            assert 0 < link.rtt_us < 1e5
            assert link.bytes_per_s > 1e6
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.stop()

    asyncio.run(body())


def test_a_link_that_the_other_end_reports_dead_is_measured_again_at_once() -> None:
    async def body() -> None:
        server = ProbeServer("boot1")
        await server.start("127.0.0.1", 0)
        monitor = LinkMonitor("a", lambda: INTERFACES, lambda: None, interval_s=3600)
        probe = {"probe": f"tcp://127.0.0.1:{server.port}"}
        monitor.on_beacon(beacon_of("discovery", "b", endpoints=probe))
        task = asyncio.create_task(monitor.run())
        try:
            await wait_until_async(lambda: monitor.facts()[0].address, "the link is measured")
            await server.stop()
            reported = LinkFacts("a", "", "", 0.0, 0.0, 0.0, 0.0, dead=("10.0.0.1",))
            monitor.on_beacon(
                beacon_of("discovery", "b", endpoints=probe, facts={"links": (reported,)})
            )
            await wait_until_async(lambda: monitor.unreachable() == ["b"], "the link is found dead")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.stop()

    asyncio.run(body())


def test_own_addresses_are_not_measured_for_another_machine() -> None:
    virtual = Interface("bridge100", "other", "192.168.64.1")
    monitor = LinkMonitor("a", lambda: (*INTERFACES, virtual), lambda: None, interval_s=60)
    beacon = beacon_of(
        "discovery",
        "b",
        endpoints={"probe": "tcp://0.0.0.0:9"},
        facts={
            "machine": NodeFacts(interfaces=(virtual, Interface("en0", "ethernet", "10.0.0.2")))
        },
    )
    monitor.on_beacon(beacon)
    assert monitor.addresses("b") == ("10.0.0.2",)
