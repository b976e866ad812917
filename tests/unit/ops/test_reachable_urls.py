"""A gateway's URL is given with an address at which the asking machine reaches it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.messages.control import Beacon, GatewayFacts
from pomona.messages.discovery import DiscoveryFacts, Hardware, LinkFacts
from pomona_ops.cluster.reachable_urls import reachable_urls
from support.node_beacons import node_beacon

MACHINE = Hardware("chip", 4, 1, 1, "Linux", "1")


def beacons(url: str, linked: bool, peer: str = "") -> list[Beacon]:
    """Returns a gateway on ``mac``, its discovery service, and that of ``mini``."""
    links = (LinkFacts("mac", "10.0.0.1", "ethernet", 1, 1, 1, 1),) if linked else ()
    head = node_beacon("discovery", DiscoveryFacts(MACHINE))
    mini = node_beacon("discovery", DiscoveryFacts(MACHINE, links=links))
    return [
        node_beacon("gateway", GatewayFacts(url)),
        replace(head, endpoints={"peer": peer}),
        replace(mini, name="mini.discovery", node="mini"),
    ]


@pytest.mark.parametrize(
    ("url", "node", "linked", "peer", "reachable"),
    [
        ("http://127.0.0.1:52415", "mac", True, "", ("http://127.0.0.1:52415",)),
        ("http://0.0.0.0:52415", "mac", True, "", ("http://127.0.0.1:52415",)),
        ("http://127.0.0.1:52415", "mini", True, "", ()),
        ("http://0.0.0.0:52415", "mini", True, "", ("http://10.0.0.1:52415",)),
        ("https://0.0.0.0:1", "mini", False, "tcp://10.0.0.9:2", ("https://10.0.0.9:1",)),
        ("http://0.0.0.0:52415", "mini", False, "tcp://0.0.0.0:2", ()),
        ("http://mac.local:52415", "mini", False, "", ("http://mac.local:52415",)),
    ],
)
def test_the_url_has_an_address_that_is_valid_there(
    url: str, node: str, linked: bool, peer: str, reachable: tuple[str, ...]
) -> None:
    assert reachable_urls(beacons(url, linked, peer), node) == reachable
