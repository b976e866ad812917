"""Addresses that appear, change and disappear while discovery runs."""

from __future__ import annotations

import asyncio

from pomona.messages.discovery import Interface
from pomona_discovery.address_watch import follow_addresses
from pomona_discovery.own_addresses import advertised_address, interface_kind
from support.waiting import wait_until_async

LOOPBACK = Interface("lo0", "loopback", "127.0.0.1")
CABLE = Interface("en2", "thunderbolt", "169.254.3.1")
LAN = Interface("en0", "ethernet", "10.0.0.1")
VM = Interface("bridge100", "other", "192.168.64.1")


def test_every_change_of_addresses_is_noticed_once() -> None:
    async def body() -> None:
        present = [LOOPBACK]
        changes: list[str] = []

        async def on_change() -> None:
            changes.append(advertised_address(present))

        task = asyncio.create_task(
            follow_addresses((LOOPBACK,), lambda: tuple(present), on_change, 0.01)
        )
        for added, expected in ((CABLE, "169.254.3.1"), (VM, "169.254.3.1")):
            present.append(added)
            await wait_until_async(lambda: changes[-1:] == [expected], "the change is noticed")  # noqa: B023
        present.remove(CABLE)
        await wait_until_async(lambda: changes[-1:] == ["192.168.64.1"], "the cable is gone")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert changes[0] == "169.254.3.1"
        assert len(changes) <= 3

    asyncio.run(body())


def test_the_bridge_of_virtual_machines_is_advertised_last() -> None:
    assert interface_kind("bridge100") == "other"
    assert interface_kind("bridge0") == "ethernet"
    assert advertised_address([LOOPBACK, VM, LAN]) == "10.0.0.1"
    assert advertised_address([LOOPBACK]) == ""
