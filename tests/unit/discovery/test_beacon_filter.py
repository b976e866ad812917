"""Which beacons a discovery service forwards."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.codec import encode_beacon
from pomona.messages.control import Beacon
from pomona_discovery.beacon_filter import CONFLICT_ENDS_S, BeaconFilter, Dropped, Origin
from support.beacons import beacon_of


def admit(gate: BeaconFilter, beacon: Beacon, origin: Origin = "local", now: float = 0.0) -> str:
    """``forwarded``, or the reason why not."""
    verdict = gate.admit(encode_beacon(beacon), origin, now)
    return verdict.reason if isinstance(verdict, Dropped) else "forwarded"


def gate_of_mac() -> BeaconFilter:
    return BeaconFilter("pomona", "mac")


def test_news_of_this_cluster_passes() -> None:
    gate = gate_of_mac()
    assert admit(gate, beacon_of("gateway")) == "forwarded"
    assert admit(gate, beacon_of("gateway", "other"), "peer") == "forwarded"


def test_another_cluster_stays_out() -> None:
    assert admit(gate_of_mac(), beacon_of("gateway", cluster="foreign")) == "foreign_cluster"


@given(st.lists(st.binary(max_size=32), max_size=3), st.sampled_from(["local", "peer"]))
def test_bytes_that_are_no_beacon_stay_out(frames: list[bytes], origin: Origin) -> None:
    verdict = gate_of_mac().admit(frames, origin, 0.0)
    assert isinstance(verdict, Dropped)
    assert verdict.reason == "invalid"


def test_a_beacon_passes_once_however_many_ways_it_came() -> None:
    gate = gate_of_mac()
    beacon = beacon_of("gateway", "other")
    assert [admit(gate, beacon, "peer") for _ in range(3)] == ["forwarded", "stale", "stale"]


def test_our_own_beacon_that_comes_back_is_an_echo_and_no_conflict() -> None:
    gate = gate_of_mac()
    admit(gate, beacon_of("discovery"))
    assert admit(gate, beacon_of("discovery"), "peer") == "echo"
    assert gate.conflicts == frozenset()


def test_a_stranger_with_our_node_name_is_said_and_stays_out() -> None:
    gate = gate_of_mac()
    admit(gate, beacon_of("discovery", boot="ours"))
    stranger = beacon_of("discovery", boot="theirs", seq=900)
    assert admit(gate, stranger, "peer", 1.0) == "duplicate_node"
    assert gate.conflicts == {"mac.discovery"}
    assert admit(gate, beacon_of("discovery", boot="ours", seq=2), now=1.5) == "forwarded"


def test_a_conflict_ends_when_the_stranger_is_silent() -> None:
    gate = gate_of_mac()
    admit(gate, beacon_of("discovery", boot="theirs"), "peer", 1.0)
    gate.expire(1.0 + CONFLICT_ENDS_S)
    assert gate.conflicts
    gate.expire(1.1 + CONFLICT_ENDS_S)
    assert not gate.conflicts


def test_two_other_nodes_of_one_name_that_speak_in_turn_are_a_conflict() -> None:
    gate = gate_of_mac()
    for second in range(5):
        for boot in ("one", "two"):
            beacon = beacon_of("discovery", "twin", boot=boot, seq=second + 1)
            admit(gate, beacon, "peer", float(second))
    assert gate.conflicts == {"twin.discovery"}


def test_two_services_of_one_name_on_this_node_are_a_conflict() -> None:
    gate = gate_of_mac()
    for second in range(5):
        for boot in ("one", "two"):
            admit(gate, beacon_of("gateway", boot=boot, seq=second + 1), now=float(second))
    assert gate.conflicts == {"mac.gateway"}


def test_a_restart_is_no_conflict_though_a_late_word_of_the_old_boot_arrives() -> None:
    gate = gate_of_mac()
    old, new = beacon_of("gateway", boot="old", seq=70), beacon_of("gateway", boot="new")
    admit(gate, old, now=0.0)
    assert admit(gate, new, now=0.5) == "forwarded"
    assert admit(gate, replace(old, seq=71), now=0.6) == "stale"
    for second in range(1, 10):
        admit(gate, replace(new, seq=1 + second), now=float(second))
        gate.expire(float(second))
    assert gate.conflicts == frozenset()


def test_when_one_of_two_namesakes_ends_the_other_is_forwarded_again() -> None:
    gate = gate_of_mac()
    for second in range(3):
        for boot in ("one", "two"):
            admit(gate, beacon_of("gateway", boot=boot, seq=second + 1), now=float(second))
    verdicts: list[str] = []
    for second in range(3, 20):
        gate.expire(float(second))
        beacon = beacon_of("gateway", boot="one", seq=second + 1)
        verdicts.append(admit(gate, beacon, now=float(second)))
    assert verdicts[-1] == "forwarded"
    assert gate.conflicts == frozenset()
