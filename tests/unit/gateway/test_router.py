"""The gateway reaches the head, and is reached, by the way that was measured."""

from __future__ import annotations

from typing import Any

from pomona.messages.control import (
    Beacon,
    Pipeline,
    Stage,
    StageStatus,
)
from pomona.messages.discovery import LinkFacts
from pomona_gateway.pipeline.router import RouteTable
from support.beacons import beacon_of

EVERYWHERE = "tcp://0.0.0.0:7000"
HERE = "tcp://0.0.0.0:9000"


def link(node: str, address: str) -> LinkFacts:
    return LinkFacts(node, address, "ethernet", 1, 1, 1, 1)


def worker(node: str, endpoint: str = EVERYWHERE) -> Beacon:
    stages = (StageStatus("m", 1, 0, 1, "ready"),)
    return beacon_of("stage_worker", node, endpoints={"data": endpoint}, facts={"stages": stages})


def plan(*nodes: str, endpoint: str = EVERYWHERE, address: str = "") -> Beacon:
    stages = tuple(
        Stage(f"{node}.stage_worker", n, n + 1, endpoint, address) for n, node in enumerate(nodes)
    )
    pipelines = (Pipeline("m", "m", 1, len(nodes), "active", stages),)
    return beacon_of("planner", "a", facts={"pipelines": pipelines})


def measured(node: str, *links: LinkFacts) -> Beacon:
    return beacon_of("discovery", node, facts={"links": links})


def table(*beacons: Beacon) -> RouteTable:
    made = RouteTable("here")
    for beacon in beacons:
        made.on_beacon(beacon)
    return made


def way(made: RouteTable) -> tuple[str, str]:
    """To the head, and back."""
    route = made.route("m")
    assert route is not None
    return route.endpoint, made.way_back(route, HERE)


def test_an_endpoint_on_one_address_is_the_way_unless_the_planner_says_another() -> None:
    one: dict[str, Any] = {"endpoint": "tcp://10.0.0.1:7000"}
    heard = worker("far", **one)
    assert way(table(heard, plan("far", **one)))[0] == "tcp://10.0.0.1:7000"
    other = plan("far", **one, address="tcp://10.0.0.9:7000")
    assert way(table(heard, other))[0] == "tcp://10.0.0.9:7000"
    beside_its_tail = plan("far", **one, address="ipc://@pomona-1")
    assert way(table(heard, beside_its_tail))[0] == "tcp://10.0.0.1:7000"


def test_a_head_on_every_address_is_reached_by_the_one_measured_from_here() -> None:
    made = table(worker("far"), plan("far", address="tcp://10.0.0.9:7000"))
    assert way(made)[0] == "tcp://10.0.0.9:7000"
    assert made.on_beacon(measured("here", link("far", "10.1.0.2")))
    assert way(made)[0] == "tcp://10.1.0.2:7000"
    assert not made.on_beacon(measured("here", link("far", "10.1.0.2")))
    assert way(table(worker("here"), plan("here")))[0] == "tcp://127.0.0.1:7000"


def test_stages_are_told_an_address_of_this_node_that_they_measured() -> None:
    seen = (measured("far", link("here", "10.1.0.1")), measured("near", link("here", "10.2.0.1")))
    ends = (worker("far"), worker("near"), worker("here"))
    for nodes, address in (
        (("far", "near"), "10.2.0.1"),
        (("far", "here"), "10.1.0.1"),
        (("here", "near"), "10.2.0.1"),
        (("here", "here"), "127.0.0.1"),
    ):
        assert way(table(*ends, *seen, plan(*nodes)))[1] == f"tcp://{address}:9000"
