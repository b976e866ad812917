"""Which other nodes' switchboards a discovery service sends to."""

from __future__ import annotations

import pytest

from pomona.leases import LEASE_S
from pomona.messages.control import Beacon
from pomona_discovery.peer_table import MAX_PEERS, PEER_SILENCE_S, Link, PeerTable
from support.beacons import beacon_of

A, B, C = (f"tcp://10.0.0.{number}:52418" for number in (1, 2, 3))


def discovery(node: str, endpoint: str, *peers: str, seq: int = 1) -> Beacon:
    return beacon_of(
        "discovery", node, seq=seq, endpoints={"peer": endpoint}, facts={"peers": peers}
    )


def connects(*endpoints: str) -> list[Link]:
    return [Link("connect", endpoint) for endpoint in endpoints]


def test_static_peers_are_connected_at_the_start() -> None:
    assert PeerTable([A], [B, C], 0.0).begin() == connects(B, C)


def test_a_node_is_not_its_own_peer() -> None:
    mesh = PeerTable([A, "tcp://127.0.0.1:52418"], [A, "tcp://127.0.0.1:52418"], 0.0)
    assert mesh.begin() == []
    assert mesh.on_beacon(discovery("b", B, A), 1.0) == connects(B)


def test_who_is_heard_is_sent_to_once() -> None:
    mesh = PeerTable([A], [], 0.0)
    assert mesh.on_beacon(discovery("b", B), 1.0) == connects(B)
    assert mesh.on_beacon(discovery("b", B, seq=2), 2.0) == []


def test_one_known_node_leads_to_the_others() -> None:
    mesh = PeerTable([A], [B], 0.0)
    assert mesh.on_beacon(discovery("b", B, A, C), 1.0) == connects(C)
    assert mesh.connected() == [B, C]


def test_only_peers_that_speak_are_passed_on() -> None:
    mesh = PeerTable([A], [B], 0.0)
    mesh.on_beacon(discovery("b", B, C), 1.0)
    assert mesh.heard(1.0) == [B]
    assert mesh.heard(1.0 + LEASE_S + 0.1) == []


def test_a_learnt_peer_that_falls_silent_is_left_and_a_static_one_is_kept() -> None:
    mesh = PeerTable([A], [B], 0.0)
    mesh.on_beacon(discovery("b", B), 0.0)
    mesh.on_beacon(discovery("c", C), 0.0)
    assert mesh.expire(PEER_SILENCE_S) == []
    assert mesh.expire(PEER_SILENCE_S + 0.1) == [Link("disconnect", C)]
    assert mesh.connected() == [B]


def test_a_peer_that_is_only_told_of_gets_its_time_too() -> None:
    mesh = PeerTable([A], [B], 0.0)
    mesh.on_beacon(discovery("b", B, C), 5.0)
    assert mesh.expire(5.0 + PEER_SILENCE_S) == []
    assert mesh.expire(5.1 + PEER_SILENCE_S) == [Link("disconnect", C)]


def test_a_peer_that_is_left_can_come_back() -> None:
    mesh = PeerTable([A], [], 0.0)
    mesh.on_beacon(discovery("c", C), 0.0)
    mesh.expire(100.0)
    assert mesh.on_beacon(discovery("c", C, seq=200), 200.0) == connects(C)


def test_other_services_teach_nothing() -> None:
    mesh = PeerTable([A], [], 0.0)
    assert mesh.on_beacon(beacon_of("gateway", endpoints={"peer": B}), 1.0) == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "10.0.0.9:1",
        "ipc:///tmp/x",
        "inproc://x",
        "tcp://*:1",
        "tcp://host",
        "tcp://a:b",
        "tcp:",
    ],
)
def test_what_is_no_address_of_a_peer_is_not_connected(endpoint: str) -> None:
    mesh = PeerTable([A], [], 0.0)
    assert mesh.on_beacon(discovery("b", endpoint, endpoint), 1.0) == []


def test_a_flood_of_peers_is_bounded() -> None:
    mesh = PeerTable([A], [B], 0.0)
    flood = [f"tcp://10.1.0.{number}:1" for number in range(250)]
    assert len(mesh.on_beacon(discovery("b", B, *flood), 1.0)) == MAX_PEERS - 1
    assert len(mesh.connected()) == MAX_PEERS
