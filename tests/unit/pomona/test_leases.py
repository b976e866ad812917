"""Leases: which services are alive, by their beacons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.leases import LEASE_S, LeaseTable
from support.beacons import beacon_of


def test_a_service_is_alive_until_its_lease_ends() -> None:
    table = LeaseTable()
    assert table.observe(beacon_of("gateway"), 10.0)
    assert table.expire(10.0 + LEASE_S) == []
    assert [x.name for x in table.expire(10.0 + LEASE_S + 0.01)] == ["mac.gateway"]
    assert list(table) == []


@pytest.mark.parametrize("seq", [0, 4, 5])
def test_an_old_or_repeated_beacon_is_stale_and_extends_no_lease(seq: int) -> None:
    table = LeaseTable()
    table.observe(beacon_of("gateway", seq=5), 0.0)
    assert not table.observe(beacon_of("gateway", seq=seq), 2.0)
    assert table.expire(LEASE_S + 0.5) != []


def test_beacons_of_a_replaced_boot_are_stale() -> None:
    table = LeaseTable()
    table.observe(beacon_of("gateway", boot="old", seq=90), 0.0)
    assert table.observe(beacon_of("gateway", boot="new", seq=1), 1.0)
    assert not table.observe(beacon_of("gateway", boot="old", seq=91), 1.1)
    lease = table.get("mac.gateway")
    assert lease is not None
    assert lease.beacon.boot == "new"


def test_the_survivor_of_two_processes_with_one_name_gets_the_lease() -> None:
    table = LeaseTable()
    table.observe(beacon_of("gateway", boot="one", seq=1), 0.0)
    table.observe(beacon_of("gateway", boot="two", seq=1), 0.5)
    table.expire(0.5 + LEASE_S + 0.1)
    assert table.observe(beacon_of("gateway", boot="one", seq=9), 4.0)


def test_a_service_whose_lease_expired_gets_a_new_one() -> None:
    table = LeaseTable()
    table.observe(beacon_of("gateway", seq=1), 0.0)
    table.expire(10.0)
    assert table.observe(beacon_of("gateway", seq=11), 11.0)


def test_the_time_of_progress_stands_still_only_while_work_is_queued() -> None:
    table = LeaseTable()

    def progressed_at(seq: int, progress: int, queued: int) -> float:
        beacon = beacon_of("stage_worker", seq=seq, progress=progress, queued=queued)
        table.observe(beacon, float(seq))
        lease = table.get("mac.stage_worker")
        assert lease is not None
        return lease.progressed_at

    assert progressed_at(1, 7, 0) == 1.0
    assert progressed_at(2, 7, 0) == 2.0, "nothing is queued"
    assert progressed_at(3, 7, 1) == 2.0, "work is queued, none is done"
    assert progressed_at(4, 7, 1) == 2.0
    assert progressed_at(5, 8, 1) == 5.0, "a step is done"


def test_services_of_one_kind_are_sorted_by_name() -> None:
    table = LeaseTable()
    for node in ("c", "a", "b"):
        table.observe(beacon_of("stage_worker", node), 0.0)
    table.observe(beacon_of("planner", "a"), 0.0)
    assert [x.node for x in table.of_service("stage_worker")] == ["a", "b", "c"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["boot1", "boot2", "boot3"]),
            st.integers(0, 20),
            st.floats(0, 2),
        ),
        max_size=40,
    )
)
def test_every_service_in_the_table_sent_a_new_beacon_within_the_lease(
    beacons: list[tuple[str, str, int, float]],
) -> None:
    table, now = LeaseTable(), 0.0
    received: dict[str, float] = {}
    for node, boot, seq, pause in beacons:
        now += pause
        if table.observe(beacon_of("gateway", node, boot=boot, seq=seq), now):
            received[f"{node}.gateway"] = now
        for expired in table.expire(now):
            assert now - received.pop(expired.name) > LEASE_S
        assert {x.beacon.name: x.received_at for x in table} == received
