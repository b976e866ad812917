"""Peer table: the discovery services to which this one sends."""

from __future__ import annotations

import pytest

from pomona.leases import LEASE_S
from pomona.messages.control import Beacon
from pomona_discovery.peer_table import (
    MAX_LEARNT_PER_HOST,
    MAX_PEERS,
    PEER_EXPIRY_S,
    UNRESPONSIVE_S,
    PeerInstruction,
    PeerTable,
)
from support.beacons import beacon_of

A, B, C = (f"tcp://10.0.0.{number}:52418" for number in (1, 2, 3))


def discovery(node: str, endpoint: str, *peers: str, seq: int = 1) -> Beacon:
    return beacon_of(
        "discovery", node, seq=seq, endpoints={"peer": endpoint}, facts={"peers": peers}
    )


def connects(*endpoints: str) -> list[PeerInstruction]:
    return [PeerInstruction("connect", endpoint) for endpoint in endpoints]


def test_static_peers_are_connected_at_startup() -> None:
    assert PeerTable([A], [B, C], 0.0).connect_static() == connects(B, C)


def test_a_node_is_never_its_own_peer() -> None:
    table = PeerTable([A, "tcp://127.0.0.1:52418"], [A, "tcp://127.0.0.1:52418"], 0.0)
    assert table.connect_static() == []
    assert table.on_beacon(discovery("b", B, A), 1.0) == connects(B)


def test_the_sender_of_a_beacon_is_connected_once() -> None:
    table = PeerTable([A], [], 0.0)
    assert table.on_beacon(discovery("b", B), 1.0) == connects(B)
    assert table.on_beacon(discovery("b", B, seq=2), 2.0) == []


def test_an_endpoint_named_twice_in_one_beacon_is_connected_once() -> None:
    table = PeerTable([A], [], 0.0)
    assert table.on_beacon(discovery("b", B, B, C, C), 1.0) == connects(B, C)


def test_an_added_endpoint_is_connected_once_unless_it_is_known_or_own() -> None:
    table = PeerTable([A], [B], 0.0)
    assert table.add(C, 1.0) == connects(C)
    assert [table.add(endpoint, 2.0) for endpoint in (A, B, C)] == [[], [], []]
    assert table.connected() == [B, C]


def test_adding_a_known_peer_again_changes_neither_its_kind_nor_its_age() -> None:
    table = PeerTable([A], [B], 0.0)
    table.add(C, 0.0)
    for endpoint in (B, C):
        table.add(endpoint, PEER_EXPIRY_S)
    assert table.unresponsive(UNRESPONSIVE_S + 0.1) == [B]
    assert table.expire(PEER_EXPIRY_S + 0.1) == [PeerInstruction("disconnect", C)]
    assert table.connected() == [B]


def test_one_known_node_leads_to_the_others() -> None:
    table = PeerTable([A], [B], 0.0)
    assert table.on_beacon(discovery("b", B, A, C), 1.0) == connects(C)
    assert table.connected() == [B, C]


def test_only_peers_with_a_beacon_within_the_lease_are_live() -> None:
    table = PeerTable([A], [B], 0.0)
    table.on_beacon(discovery("b", B, C), 1.0)
    assert table.live(1.0) == [B]
    assert table.live(1.0 + LEASE_S) == [B]
    assert table.live(1.0 + LEASE_S + 0.1) == []


def test_a_silent_dynamic_peer_is_removed_and_a_static_one_is_kept() -> None:
    table = PeerTable([A], [B], 0.0)
    table.on_beacon(discovery("b", B), 0.0)
    table.on_beacon(discovery("c", C), 0.0)
    assert table.expire(PEER_EXPIRY_S) == []
    assert table.expire(PEER_EXPIRY_S + 0.1) == [PeerInstruction("disconnect", C)]
    assert table.connected() == [B]


def test_a_static_peer_is_unresponsive_until_it_sends_a_beacon() -> None:
    table = PeerTable([A], [B], 0.0)
    table.add(C, 0.0)
    assert table.unresponsive(UNRESPONSIVE_S) == []
    assert table.unresponsive(UNRESPONSIVE_S + 0.1) == [B]
    table.on_beacon(discovery("b", B), UNRESPONSIVE_S + 0.2)
    assert table.unresponsive(UNRESPONSIVE_S + 0.3) == []


def test_a_peer_named_by_another_expires_after_the_same_time() -> None:
    table = PeerTable([A], [B], 0.0)
    table.on_beacon(discovery("b", B, C), 5.0)
    assert table.expire(5.0 + PEER_EXPIRY_S) == []
    assert table.expire(5.1 + PEER_EXPIRY_S) == [PeerInstruction("disconnect", C)]


def test_a_removed_peer_can_come_back() -> None:
    table = PeerTable([A], [], 0.0)
    table.on_beacon(discovery("c", C), 0.0)
    table.expire(400.0)
    assert table.on_beacon(discovery("c", C, seq=200), 500.0) == connects(C)


def test_beacons_of_other_services_add_no_peers() -> None:
    table = PeerTable([A], [], 0.0)
    assert table.on_beacon(beacon_of("gateway", endpoints={"peer": B}), 1.0) == []


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
def test_an_invalid_peer_endpoint_is_not_connected(endpoint: str) -> None:
    table = PeerTable([A], [], 0.0)
    assert table.on_beacon(discovery("b", endpoint, endpoint), 1.0) == []


def test_the_number_of_peers_is_bounded() -> None:
    table = PeerTable([A], [B], 0.0)
    flood = [f"tcp://10.1.0.{number}:1" for number in range(250)]
    assert len(table.on_beacon(discovery("b", B, *flood), 1.0)) == MAX_PEERS - 1
    assert len(table.connected()) == MAX_PEERS


def test_one_address_takes_a_bounded_part_of_the_table() -> None:
    table = PeerTable([A], [B], 0.0)
    flood = [f"tcp://10.9.9.9:{port}" for port in range(1, 250)]
    assert len(table.on_beacon(discovery("b", B, *flood), 1.0)) == MAX_LEARNT_PER_HOST
