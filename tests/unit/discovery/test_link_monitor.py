"""Link monitor: finds the best address of a node and measures again when a link dies."""

from __future__ import annotations

import asyncio
import time

import pytest

from pomona.messages.control import Beacon
from pomona.messages.discovery import Interface, LinkFacts, NodeFacts
from pomona_discovery.link_monitor import MIN_INTERVAL_S, LinkMonitor
from pomona_discovery.link_probe import LinkMeasurement, ProbeServer
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


@pytest.mark.slow
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


def test_at_most_sixteen_addresses_of_a_node_are_measured_once_a_second() -> None:
    many = tuple(Interface(f"en{n}", "ethernet", f"10.1.0.{n}") for n in range(1, 18))
    monitor = LinkMonitor("a", lambda: INTERFACES, lambda: None, interval_s=60)
    beacon = beacon_of(
        "discovery",
        "b",
        endpoints={"probe": "tcp://0.0.0.0:9"},
        facts={"machine": NodeFacts(interfaces=many)},
    )
    monitor.on_beacon(beacon)
    assert len(monitor.addresses("b")) == 16
    measured_at = monitor._measured_at  # type: ignore[reportPrivateUsage]
    assert monitor._may_measure("b")  # type: ignore[reportPrivateUsage]
    measured_at["b"] = time.monotonic() + 60
    assert not monitor._may_measure("b"), "too soon"  # type: ignore[reportPrivateUsage]
    measured_at["b"] = time.monotonic() - MIN_INTERVAL_S
    assert monitor._may_measure("b")  # type: ignore[reportPrivateUsage]


def test_both_ends_use_the_pair_of_addresses_that_the_first_name_chose() -> None:
    """Node ``a`` chooses one of two cables with link-local addresses, and ``b`` takes the same."""
    cable, slower = (
        LinkMeasurement("169.254.1.1", 200e-6, 0, 4e9, 0, "169.254.1.2"),
        (LinkMeasurement("169.254.9.1", 190e-6, 0, 4e9, 0, "169.254.9.2")),
    )
    interfaces = tuple(
        Interface(name, "thunderbolt", address)
        for name, address in (("en1", cable.address), ("en2", slower.address))
    )
    changes: list[int] = []
    monitor = LinkMonitor("b", lambda: (), lambda: changes.append(1), interval_s=60)

    def beacon(*links: LinkFacts) -> Beacon:
        facts = {"machine": NodeFacts(interfaces=interfaces), "links": links}
        return beacon_of("discovery", "a", endpoints={"probe": "tcp://0.0.0.0:9"}, facts=facts)

    monitor.on_beacon(beacon())
    assert monitor.addresses("a") == (cable.address, slower.address)
    monitor.record("a", [cable, slower])
    assert monitor.facts()[0].address == slower.address
    chosen = LinkFacts("b", "169.254.1.2", "thunderbolt", 200.0, 0, 4e9, 0, own=cable.address)
    monitor.on_beacon(beacon(chosen))
    (link,) = monitor.facts()
    assert (link.address, link.own, len(changes)) == (cable.address, "169.254.1.2", 1)
    gone = LinkFacts("b", "169.254.1.2", "thunderbolt", 200.0, 0, 4e9, 0, own="169.254.7.7")
    monitor.on_beacon(beacon(gone))
    assert monitor.facts()[0].address in (cable.address, slower.address), "one that answers"
