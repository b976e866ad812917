"""Beacon filter: which beacons are forwarded, and which names are in conflict."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.leases import LEASE_S
from pomona.messages.codec import encode_beacon
from pomona.messages.control import Beacon
from pomona.trust import Member, Roster
from pomona_discovery.beacon_filter import (
    CONFLICT_AFTER_S,
    CONFLICT_ENDS_S,
    MAX_LOCAL_BOOTS,
    MAX_NEW_NAMES,
    NEW_NAMES_S,
    BeaconFilter,
    Dropped,
    Origin,
)
from support.beacons import beacon_of


@pytest.fixture
def beacon_filter() -> BeaconFilter:
    return BeaconFilter("pomona", "mac")


def admit(
    beacon_filter: BeaconFilter, beacon: Beacon, origin: Origin = "local", now: float = 0.0
) -> str:
    """Returns ``forwarded``, or the reason of the drop."""
    verdict = beacon_filter.admit(encode_beacon(beacon), origin, now)
    if isinstance(verdict, Dropped):
        return verdict.reason
    assert verdict == beacon
    return "forwarded"


def test_new_beacons_of_this_cluster_are_forwarded(beacon_filter: BeaconFilter) -> None:
    assert admit(beacon_filter, beacon_of("gateway")) == "forwarded"
    assert admit(beacon_filter, beacon_of("gateway", "other"), "peer") == "forwarded"


def test_beacons_of_another_cluster_are_dropped(beacon_filter: BeaconFilter) -> None:
    beacon = beacon_of("gateway", cluster="foreign")
    assert admit(beacon_filter, beacon) == "foreign_cluster"


@given(st.lists(st.binary(max_size=32), max_size=3), st.sampled_from(["local", "peer"]))
def test_invalid_bytes_are_dropped(frames: list[bytes], origin: Origin) -> None:
    verdict = BeaconFilter("pomona", "mac").admit(frames, origin, 0.0)
    assert isinstance(verdict, Dropped)
    assert verdict.reason == "invalid"


def test_a_beacon_from_several_peers_is_forwarded_once(beacon_filter: BeaconFilter) -> None:
    beacon = beacon_of("gateway", "other")
    verdicts = [admit(beacon_filter, beacon, "peer") for _ in range(3)]
    assert verdicts == ["forwarded", "stale", "stale"]
    assert beacon_filter.conflicts == frozenset()


def test_late_duplicates_of_the_current_boot_are_not_a_conflict(
    beacon_filter: BeaconFilter,
) -> None:
    beacon = beacon_of("gateway", "other")
    assert admit(beacon_filter, beacon, "peer", 0.0) == "forwarded"
    late = CONFLICT_AFTER_S + 0.1
    assert admit(beacon_filter, beacon, "peer", late) == "stale"
    assert beacon_filter.conflicts == frozenset()


def test_an_own_beacon_returned_by_a_peer_is_an_echo_and_not_a_conflict(
    beacon_filter: BeaconFilter,
) -> None:
    admit(beacon_filter, beacon_of("discovery"))
    assert admit(beacon_filter, beacon_of("discovery"), "peer") == "echo"
    assert beacon_filter.conflicts == frozenset()


def test_only_the_most_recent_local_boots_count_as_echo(beacon_filter: BeaconFilter) -> None:
    def echo_of(boot: str) -> str:
        return admit(beacon_filter, beacon_of("gateway", boot=boot, seq=9), "peer")

    for number in range(MAX_LOCAL_BOOTS):
        admit(beacon_filter, beacon_of("gateway", boot=f"boot{number}"))
    admit(beacon_filter, beacon_of("gateway", boot="boot0", seq=2))
    assert echo_of("boot1") == "echo"
    admit(beacon_filter, beacon_of("gateway", boot="one-more"))
    assert echo_of("boot0") == "echo", "it was seen again after boot1"
    assert echo_of("boot1") == "duplicate_node"
    assert echo_of("boot2") == "echo"


def test_a_peer_with_this_nodes_name_is_dropped_and_reported(beacon_filter: BeaconFilter) -> None:
    admit(beacon_filter, beacon_of("discovery", boot="ours"))
    other = beacon_of("discovery", boot="theirs", seq=900)
    assert admit(beacon_filter, other, "peer", 1.0) == "duplicate_node"
    assert beacon_filter.conflicts == {"mac.discovery"}
    own = beacon_of("discovery", boot="ours", seq=2)
    assert admit(beacon_filter, own, now=1.5) == "forwarded"


def test_a_conflict_ends_some_time_after_its_last_beacon(beacon_filter: BeaconFilter) -> None:
    admit(beacon_filter, beacon_of("discovery", boot="theirs"), "peer", 1.0)
    beacon_filter.expire(1.0 + CONFLICT_ENDS_S)
    assert beacon_filter.conflicts
    beacon_filter.expire(1.1 + CONFLICT_ENDS_S)
    assert not beacon_filter.conflicts


def test_two_other_nodes_of_one_name_are_a_conflict(beacon_filter: BeaconFilter) -> None:
    for second in range(5):
        for boot in ("one", "two"):
            beacon = beacon_of("discovery", "twin", boot=boot, seq=second + 1)
            admit(beacon_filter, beacon, "peer", float(second))
    assert beacon_filter.conflicts == {"twin.discovery"}


def test_two_services_of_one_name_on_this_node_are_a_conflict(beacon_filter: BeaconFilter) -> None:
    for second in range(5):
        for boot in ("one", "two"):
            beacon = beacon_of("gateway", boot=boot, seq=second + 1)
            admit(beacon_filter, beacon, now=float(second))
    assert beacon_filter.conflicts == {"mac.gateway"}


def test_a_restart_is_not_a_conflict_even_if_a_late_beacon_of_the_old_boot_arrives(
    beacon_filter: BeaconFilter,
) -> None:
    old, new = beacon_of("gateway", boot="old", seq=70), beacon_of("gateway", boot="new")
    admit(beacon_filter, old, now=0.0)
    assert admit(beacon_filter, new, now=0.5) == "forwarded"
    assert admit(beacon_filter, replace(old, seq=71), now=0.6) == "stale"
    for second in range(1, 10):
        admit(beacon_filter, replace(new, seq=1 + second), now=float(second))
        beacon_filter.expire(float(second))
    assert beacon_filter.conflicts == frozenset()


@pytest.mark.parametrize(("pause_s", "is_conflict"), [(0.0, False), (0.1, True)])
def test_beacons_of_a_replaced_boot_are_a_conflict_after_a_grace_period(
    pause_s: float, is_conflict: bool, beacon_filter: BeaconFilter
) -> None:
    old, new = beacon_of("gateway", boot="old", seq=70), beacon_of("gateway", boot="new")
    admit(beacon_filter, old, now=0.0)
    admit(beacon_filter, new, now=0.5)
    late = 0.5 + CONFLICT_AFTER_S + pause_s
    assert admit(beacon_filter, replace(old, seq=71), now=late) == "stale"
    assert bool(beacon_filter.conflicts) == is_conflict


def test_expiry_returns_the_last_beacons(beacon_filter: BeaconFilter) -> None:
    beacon = beacon_of("gateway")
    admit(beacon_filter, beacon, now=0.0)
    assert beacon_filter.expire(LEASE_S) == []
    assert beacon_filter.expire(LEASE_S + 0.1) == [beacon]


def test_the_survivor_of_two_processes_with_one_name_is_forwarded_again(
    beacon_filter: BeaconFilter,
) -> None:
    for second in range(3):
        for boot in ("one", "two"):
            beacon = beacon_of("gateway", boot=boot, seq=second + 1)
            admit(beacon_filter, beacon, now=float(second))
    verdicts: list[str] = []
    for second in range(3, 20):
        beacon_filter.expire(float(second))
        beacon = beacon_of("gateway", boot="one", seq=second + 1)
        verdicts.append(admit(beacon_filter, beacon, now=float(second)))
    assert verdicts[-1] == "forwarded"
    assert beacon_filter.conflicts == frozenset()


def members() -> Roster:
    """A roster of the head ``mac`` and the member ``mini``."""
    nodes = (("mac", "head"), ("mini", "member"))
    return Roster("pomona-x", "pomona", 1, "", (), tuple(
        Member(f"id-{name}", "", name, role) for name, role in nodes  # type: ignore[arg-type]
    ))  # fmt: skip


def verdict(beacon: Beacon, sender: str, origin: Origin = "peer", now: float = 0.0) -> str:
    found = BeaconFilter("pomona", "here", members).admit(
        encode_beacon(beacon), origin, now, sender
    )
    return found.reason if isinstance(found, Dropped) else "forwarded"


def test_a_peer_speaks_for_the_node_of_its_key_only() -> None:
    beacon = beacon_of("gateway", "mini", boot="newer")
    assert verdict(beacon, "id-mini") == "forwarded"
    for sender in ("id-mac", "id-stranger", ""):
        assert verdict(beacon, sender) == "impostor"


def test_a_newer_boot_under_the_name_of_another_node_is_not_believed() -> None:
    taken = beacon_of("stage_worker", "mini", boot="newer", name="mac.stage_worker")
    assert verdict(taken, "id-mini") == "impostor"
    beacon_filter = BeaconFilter("pomona", "here", members)

    def hear(node: str, boot: str, now: float) -> str:
        beacon = beacon_of("gateway", node, boot=boot, name="shop")
        found = beacon_filter.admit(encode_beacon(beacon), "peer", now, f"id-{node}")
        return found.reason if isinstance(found, Dropped) else "forwarded"

    assert hear("mac", "one", 0.0) == "forwarded"
    assert hear("mini", "two", 1.0) == "impostor"
    assert hear("mac", "three", 2.0) == "forwarded"


@pytest.mark.parametrize("origin", ["peer", "local"])
def test_only_a_head_plans(origin: Origin) -> None:
    assert verdict(beacon_of("planner", "mac"), "id-mac", origin) == "forwarded"
    assert verdict(beacon_of("planner", "mini"), "id-mini", origin) == "unauthorised"


def test_the_leases_of_a_revoked_node_end() -> None:
    roster = [members()]
    beacon_filter = BeaconFilter("pomona", "mac", lambda: roster[0])
    for beacon in (beacon_of("gateway", "mac"), beacon_of("stage_worker", "mini")):
        beacon_filter.admit(encode_beacon(beacon), "peer", 0.0, f"id-{beacon.node}")
    assert beacon_filter.remove_strangers() == []
    roster[0] = replace(roster[0], members=roster[0].members[:1])
    assert [x.name for x in beacon_filter.remove_strangers()] == ["mini.stage_worker"]


def test_a_node_adds_a_bounded_number_of_services_a_minute(beacon_filter: BeaconFilter) -> None:
    def new(number: int, now: float) -> str:
        beacon = beacon_of("gateway", "mini", name=f"mini.gateway.{number}")
        return admit(beacon_filter, beacon, "peer", now)

    assert {new(n, 0.0) for n in range(MAX_NEW_NAMES)} == {"forwarded"}
    assert new(MAX_NEW_NAMES, 1.0) == "too_many_names"
    assert admit(beacon_filter, beacon_of("gateway", "other"), "peer", 1.0) == "forwarded"
    assert new(MAX_NEW_NAMES, NEW_NAMES_S + 1.0) == "forwarded"
