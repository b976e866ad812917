"""macOS's denial of the local network, told from machines that are off."""

from __future__ import annotations

import asyncio
import errno

import pytest

from pomona import host
from pomona.messages.discovery import Interface
from pomona_discovery import link_monitor, local_network
from pomona_discovery.link_monitor import LinkMonitor
from support.beacons import beacon_of
from support.waiting import wait_until_async


@pytest.mark.parametrize(
    ("system", "number", "is_near", "denied"),
    [
        ("darwin", errno.EHOSTUNREACH, True, True),
        ("darwin", errno.EHOSTUNREACH, False, False),
        ("darwin", errno.EHOSTDOWN, True, False),
        ("darwin", errno.ECONNREFUSED, True, False),
        ("linux", errno.EHOSTUNREACH, True, False),
    ],
)
def test_only_no_route_to_the_own_network_of_a_mac_is_a_denial(
    monkeypatch: pytest.MonkeyPatch, system: str, number: int, is_near: bool, denied: bool
) -> None:
    monkeypatch.setattr(host, "SYSTEM", system)
    monkeypatch.setattr(local_network, "is_in_own_network", lambda _: is_near)  # pyright: ignore[reportUnknownLambdaType]
    assert local_network.is_denied(OSError(number, "refused"), "10.0.0.2") is denied


def test_a_denied_node_is_reported_as_denied_and_not_as_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_monitor, "is_denied", lambda error, address: address == "127.66.0.1")  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]

    async def body() -> None:
        own = (Interface("en0", "ethernet", "10.0.0.1"),)
        monitor = LinkMonitor("a", lambda: own, lambda: None, interval_s=3600)
        # Port 1 of this machine refuses, so that the connection ends with an OSError.
        probe = {"probe": "tcp://127.66.0.1:1"}
        monitor.on_beacon(beacon_of("discovery", "b", endpoints=probe))
        task = asyncio.create_task(monitor.run())
        try:
            await wait_until_async(monitor.denied, "the denial is found")
            assert monitor.denied() == [("b", "127.66.0.1")]
            assert monitor.unreachable() == []
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(body())
