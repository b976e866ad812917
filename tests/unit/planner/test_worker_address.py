"""Stages are reached at the best measured address of their worker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.messages.control import Beacon
from pomona.messages.discovery import LinkFacts
from support.beacons import beacon_of
from support.planner_beacons import controller, on_all_addresses, worker


def discovery(
    node: str, other: str, address: str, dead: tuple[str, ...] = (), others: tuple[str, ...] = ()
) -> Beacon:
    """Returns the discovery beacon of a node that measured one link."""
    link = LinkFacts(other, address, "ethernet", 100.0, 1.0, 1e9, 1e6, others, dead)
    return beacon_of("discovery", node, facts={"links": (link,)})


def test_workers_that_listen_on_all_addresses_wait_for_measured_links() -> None:
    workers = [on_all_addresses("a"), on_all_addresses("b")]
    planner, one = controller(), discovery("a", "b", "10.0.0.2")
    reason = planner.decide(workers, 1, 0.0, [one]).reason
    assert "waiting for b to measure its links to a" in reason
    found = planner.decide(workers, 1, 1.0, [one, discovery("b", "a", "10.0.0.1")])
    assert [stage.address for stage in found.stages] == ["tcp://10.0.0.1:7", "tcp://10.0.0.2:7"]


def test_workers_of_one_node_reach_each_other_without_tcp() -> None:
    workers = [
        replace(
            worker(name, node=node),
            endpoints={"data": "tcp://0.0.0.0:7", "local": f"ipc://@{name}"},
        )
        for name, node in (("a", "m"), ("b", "m"), ("c", "n"))
    ]
    discoveries = [discovery("m", "n", "10.0.0.2"), discovery("n", "m", "10.0.0.1")]
    found = controller(stages=3).decide(workers, 1, 0.0, discoveries)
    assert [(x.worker, x.address) for x in found.stages] == [
        ("a", "tcp://10.0.0.1:7"),
        ("b", "ipc://@b"),
        ("c", "tcp://10.0.0.2:7"),
    ]


def test_a_dead_address_is_replaced_by_another_one_of_the_node() -> None:
    workers = [on_all_addresses("a"), on_all_addresses("b")]
    planner, back = controller(), discovery("b", "a", "10.0.0.1")
    planner.decide(workers, 1, 0.0, [discovery("a", "b", "10.0.0.2"), back])
    unreachable = [discovery("a", "b", "", ("10.0.0.2",)), back]
    assert planner.decide(workers, 2, 1.0, unreachable).epoch == 1, "there is no better one"
    other = [discovery("a", "b", "10.9.0.2", ("10.0.0.2",)), back]
    after = planner.decide(workers, 2, 2.0, other)
    assert after.epoch == 2
    assert "b no longer answers at 10.0.0.2" in after.reason
    assert after.stages[1].address == "tcp://10.9.0.2:7"


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_a_dead_cable_is_avoided_in_both_directions_by_one_new_epoch(
    first: str, second: str
) -> None:
    last = {"a": 1, "b": 2}
    fast, slow = ({node: f"10.{network}.0.{last[node]}" for node in "ab"} for network in (72, 71))
    workers, planner = [on_all_addresses("a"), on_all_addresses("b")], controller()
    before = {
        first: discovery(first, second, fast[second], (), (slow[second],)),
        second: discovery(second, first, fast[first], (), (slow[first],)),
    }
    planner.decide(workers, 1, 0.0, list(before.values()))
    half = before | {first: discovery(first, second, slow[second], (fast[second],))}
    after = planner.decide(workers, 2, 1.0, list(half.values()))
    assert after.epoch == 2
    assert [x.address for x in after.stages] == [f"tcp://{slow[node]}:7" for node in "ab"]
    whole = half | {second: discovery(second, first, slow[first], (fast[first],))}
    assert planner.decide(workers, 3, 2.0, list(whole.values())).epoch == 2


def test_a_doubtful_address_is_used_when_it_is_the_only_one() -> None:
    discoveries = [
        discovery("a", "b", "10.0.0.2"),
        discovery("b", "a", "10.9.0.1", ("10.0.0.1",)),
    ]
    workers = [on_all_addresses("a"), on_all_addresses("b")]
    found = controller().decide(workers, 1, 0.0, discoveries)
    assert [x.address for x in found.stages] == ["tcp://10.9.0.1:7", "tcp://10.0.0.2:7"]
