"""Requests to drain a node are numbered after the planner's decisions, and none is lost."""

from __future__ import annotations

import pytest

from pomona.errors import RequestError
from pomona.messages.control import NodeDrain
from pomona_gateway.drain_requests import MAX_PENDING, DrainRequests
from support.beacons import beacon_of


def hear(requests: DrainRequests, *drains: NodeDrain) -> None:
    requests.on_beacon(beacon_of("planner", facts={"drains": drains}))


def test_a_request_is_repeated_until_a_decision_is_as_new() -> None:
    requests = DrainRequests()
    hear(requests, NodeDrain("a", "ended", at=7))
    requests.request("a", True, until_back=True)
    [pending] = requests.pending
    assert (pending.at, pending.until_back) == (8, True)
    hear(requests, NodeDrain("a", "ended", at=7))
    assert requests.pending == (pending,)
    hear(requests, NodeDrain("a", "refused", at=8))
    assert requests.pending == ()
    assert requests.knows("a")
    assert not requests.knows("b")


def test_a_request_before_the_first_plan_is_numbered_when_it_arrives() -> None:
    requests = DrainRequests()
    requests.request("a", True)
    assert requests.pending == ()
    hear(requests, NodeDrain("a", "ended", at=40))
    assert [x.at for x in requests.pending] == [41]


def test_requests_are_bounded() -> None:
    requests = DrainRequests()
    for number in range(MAX_PENDING):
        requests.request(f"n{number}", True)
    requests.request("n1", False)
    with pytest.raises(RequestError, match="not confirmed"):
        requests.request("more", True)
