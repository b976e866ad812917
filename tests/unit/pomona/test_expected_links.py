"""The expected speed of a link follows from its kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.expected_links import (
    ETHERNET_1G,
    ETHERNET_10G,
    THUNDERBOLT_4,
    THUNDERBOLT_5,
    WIFI,
    LinkKind,
    expected_link,
)
from pomona.messages.discovery import Interface, LinkFacts, NodeFacts, ThunderboltPort
from pomona_planner.cluster.machine_catalog import load_machine_catalog

GOOD = LinkFacts("b", "10.0.0.2", "thunderbolt", 600.0, 10.0, 3.8e9, 1e6)
PORT = ThunderboltPort("port 1", 5, 80.0, "Mac16,11", domain="a", peer_domain="b")
A = NodeFacts(thunderbolt=(PORT,))
B = NodeFacts(thunderbolt=(replace(PORT, domain="b", peer_domain="a"),))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (THUNDERBOLT_5, "tb5"), (THUNDERBOLT_4, "tb4"), (ETHERNET_10G, "10gbe"),
        (ETHERNET_1G, "1gbe"), (WIFI, "wifi"),
    ],
)  # fmt: skip
def test_the_figures_are_those_that_the_planner_plans_with(kind: LinkKind, name: str) -> None:
    link = load_machine_catalog().links[name]
    assert kind.latency_us == pytest.approx(1e6 * link.latency_s)
    assert kind.bytes_per_s == pytest.approx(link.bandwidth)


def test_a_link_as_fast_as_its_kind_is_good() -> None:
    found = expected_link(GOOD, A, B)
    assert (found.kind, found.state, found.reason) == ("Thunderbolt 5", "good", "")
    assert (found.rtt_us, found.bytes_per_s) == (600.0, 4.0e9)


def test_a_link_over_wifi_beside_a_cable_is_a_fallback() -> None:
    found = expected_link(replace(GOOD, kind="wifi", bytes_per_s=4e7), A, B)
    assert found.state == "fallback"
    assert "Thunderbolt cable" in found.reason
    assert expected_link(replace(GOOD, kind="wifi"), NodeFacts(), NodeFacts()).state == "fallback"


def test_a_slow_link_says_by_how_much() -> None:
    slow = expected_link(replace(GOOD, bytes_per_s=1e9), A, B)
    assert (slow.state, "25%" in slow.reason) == ("slow", True)
    assert expected_link(replace(GOOD, rtt_us=6000.0), A, B).state == "slow"


def test_the_slower_end_decides() -> None:
    old = NodeFacts(thunderbolt=(replace(PORT, gbps=40.0),))
    assert expected_link(GOOD, A, old).kind == "Thunderbolt 4"
    wired = replace(GOOD, kind="ethernet", bytes_per_s=0.11e9)
    fast = NodeFacts(interfaces=(Interface("en0", "ethernet", "1", 10_000),))
    slow = NodeFacts(interfaces=(Interface("en0", "ethernet", "1", 1000),))
    assert expected_link(wired, fast, slow).kind == "Gigabit Ethernet"
    assert expected_link(wired, fast, fast).state == "slow"


def test_a_link_that_does_not_answer_is_down_and_a_new_one_unmeasured() -> None:
    assert expected_link(replace(GOOD, address="", dead=("x",)), A, B).state == "down"
    assert expected_link(replace(GOOD, bytes_per_s=0.0), A, B).state == "unmeasured"
    assert expected_link(replace(GOOD, kind="loopback"), A, B).state == "good"
