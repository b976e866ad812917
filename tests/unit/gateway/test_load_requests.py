"""Requests to load a model are numbered after the planner's decisions, and none is lost."""

from __future__ import annotations

import pytest

from pomona.errors import RequestError
from pomona.messages.control import WantedModel
from pomona.messages.limits import MAX_KNOWN_MODELS
from pomona_gateway.models.load_requests import MAX_PENDING, LoadRequests
from support.beacons import beacon_of


def hear(requests: LoadRequests, *models: WantedModel) -> None:
    requests.on_beacon(beacon_of("planner", facts={"models": models}))


def test_a_request_comes_after_a_decision_of_a_clock_that_was_ahead() -> None:
    requests = LoadRequests()
    hear(requests, WantedModel("a", "/m/a", False, 5e9), WantedModel("b", "/m/b", True, 3.0))
    requests.request("a", True)
    [pending] = requests.pending
    assert (pending.model, pending.at) == ("/m/a", 5e9 + 1)
    hear(requests, WantedModel("a", "/m/a", False, 5e9))
    assert requests.pending == (pending,)
    hear(requests, WantedModel("a", "/m/a", True, 5e9 + 1))
    assert requests.pending == ()


def test_a_request_before_the_first_plan_is_numbered_when_it_arrives() -> None:
    requests = LoadRequests()
    requests.request("owner/model", True)
    assert requests.pending == ()
    hear(requests, WantedModel("a", "/m/a", True, 40.0))
    [pending] = requests.pending
    assert (pending.model, pending.at) == ("owner/model", 41.0)


def test_of_two_gateways_with_one_number_both_are_heard() -> None:
    requests = LoadRequests()
    hear(requests, WantedModel("a", "/m/a", False, 1.0))
    requests.request("a", True)
    hear(requests, WantedModel("a", "/m/a", False, 2.0))  # another gateway's request
    [pending] = requests.pending
    assert pending.at == 3.0
    hear(requests, WantedModel("a", "/m/a", False, 7.0))  # a newer decision wins
    assert requests.pending == ()


def test_requests_are_bounded() -> None:
    requests = LoadRequests()
    for number in range(MAX_PENDING):
        requests.request(f"owner/{number}", True)
    requests.request("owner/1", False)
    with pytest.raises(RequestError, match="not confirmed"):
        requests.request("owner/more", True)
    full = LoadRequests()
    hear(full, *(WantedModel(f"m{n}", f"/m/{n}", False, 0.0) for n in range(MAX_KNOWN_MODELS)))
    full.request("m7", True)
    with pytest.raises(RequestError, match=str(MAX_KNOWN_MODELS)):
        full.request("owner/more", True)


def test_unloaded_models_are_listed_only_where_a_request_loads_them() -> None:
    known = (
        WantedModel("here", "a/here", loaded=True),
        WantedModel("away", "a/away", loaded=False),
    )
    requests, strict = LoadRequests(), LoadRequests(load_on_request=False)
    for each in (requests, strict):
        hear(each, *known)
    assert requests.loadable() == {"away": "a/away"}
    assert strict.loadable() == {}
