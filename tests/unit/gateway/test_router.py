"""Routes use the addresses that were measured, in both directions."""

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


def discovery(node: str, *links: LinkFacts) -> Beacon:
    return beacon_of("discovery", node, facts={"links": links})


def table(*beacons: Beacon) -> RouteTable:
    routes = RouteTable("here")
    for beacon in beacons:
        routes.on_beacon(beacon)
    return routes


def endpoints(routes: RouteTable) -> tuple[str, str]:
    """Returns the endpoint of the head, and that of the gateway for the stages."""
    route = routes.route("m")
    assert route is not None
    return route.endpoint, routes.reply_endpoint(route, HERE)


def test_the_heads_own_endpoint_is_used_unless_the_planner_states_another_address() -> None:
    one: dict[str, Any] = {"endpoint": "tcp://10.0.0.1:7000"}
    head = worker("far", **one)
    assert endpoints(table(head, plan("far", **one)))[0] == "tcp://10.0.0.1:7000"
    other = plan("far", **one, address="tcp://10.0.0.9:7000")
    assert endpoints(table(head, other))[0] == "tcp://10.0.0.9:7000"
    beside_its_tail = plan("far", **one, address="ipc://@pomona-1")
    assert endpoints(table(head, beside_its_tail))[0] == "tcp://10.0.0.1:7000"


def test_a_head_that_listens_on_all_addresses_is_reached_at_the_measured_one() -> None:
    routes = table(worker("far"), plan("far", address="tcp://10.0.0.9:7000"))
    assert endpoints(routes)[0] == "tcp://10.0.0.9:7000"
    assert routes.on_beacon(discovery("here", link("far", "10.1.0.2")))
    assert endpoints(routes)[0] == "tcp://10.1.0.2:7000"
    assert not routes.on_beacon(discovery("here", link("far", "10.1.0.2")))
    assert endpoints(table(worker("here"), plan("here")))[0] == "tcp://127.0.0.1:7000"


def test_stages_get_an_address_of_this_node_that_they_measured() -> None:
    links = (
        discovery("far", link("here", "10.1.0.1")),
        discovery("near", link("here", "10.2.0.1")),
    )
    ends = (worker("far"), worker("near"), worker("here"))
    for nodes, address in (
        (("far", "near"), "10.2.0.1"),
        (("far", "here"), "10.1.0.1"),
        (("here", "near"), "10.2.0.1"),
        (("here", "here"), "127.0.0.1"),
    ):
        assert endpoints(table(*ends, *links, plan(*nodes)))[1] == f"tcp://{address}:9000#here"
