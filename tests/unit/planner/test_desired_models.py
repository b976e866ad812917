"""The newest request decides whether a model should be loaded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.control import ModelRequest, WantedModel
from pomona.messages.limits import MAX_KNOWN_MODELS, MAX_PIPELINES
from pomona_planner.control.desired_models import (
    DesiredModels,
    apply_requests,
    initial_models,
    unload_idle,
)

KNOWN = [("a", "/m/a"), ("b", "/m/b")]


def start(saved: DesiredModels | None = None) -> DesiredModels:
    return initial_models(("/m/a",), KNOWN, saved)


def test_the_first_start_loads_the_models_of_the_settings() -> None:
    desired = start()
    assert desired.loaded == ["/m/a"]
    assert list(desired.models) == ["/m/a", "/m/b"]


def test_a_request_may_name_a_model_or_its_source() -> None:
    for model in ("b", "/m/b"):
        desired = apply_requests(start(), [ModelRequest(model, "b", True, 5.0)])
        assert desired.loaded == ["/m/a", "/m/b"]
    new = apply_requests(start(), [ModelRequest("owner/model", "owner/model", True, 5.0)])
    assert new.models["owner/model"].loaded


def test_a_repeated_or_older_request_changes_nothing() -> None:
    request = ModelRequest("b", "b", True, 5.0)
    desired = apply_requests(start(), [request])
    assert apply_requests(desired, [request]) is desired
    assert apply_requests(desired, [ModelRequest("b", "b", False, 4.0)]) is desired


@given(st.permutations([(True, 1.0), (False, 2.0), (True, 3.0), (False, 4.0)]))
def test_the_newest_request_wins_in_any_order_of_arrival(
    requests: list[tuple[bool, float]],
) -> None:
    desired = start()
    for loaded, at in requests:
        desired = apply_requests(desired, [ModelRequest("b", "b", loaded, at)])
    assert desired.models["/m/b"] == WantedModel("b", "/m/b", False, 4.0)


def test_a_restarted_planner_keeps_the_requests() -> None:
    requests = [ModelRequest("b", "b", True, 5.0), ModelRequest("a", "a", False, 6.0)]
    assert start(apply_requests(start(), requests)).loaded == ["/m/b"]


def test_changed_settings_override_saved_requests() -> None:
    saved = apply_requests(start(), [ModelRequest("a", "a", False, 6.0)])
    assert initial_models(("/m/a", "/m/b"), KNOWN, saved).loaded == ["/m/a", "/m/b"]


def test_an_idle_model_is_unloaded_and_one_that_is_not_ready_is_kept() -> None:
    desired = apply_requests(start(), [ModelRequest("b", "b", True, 100.0)])
    left = unload_idle(desired, {"/m/a": 50.0}, 60.0, 120.0)
    assert left.loaded == ["/m/b"]
    assert left.models["/m/a"].at == 101.0
    assert unload_idle(desired, {"/m/a": 70.0}, 60.0, 120.0) is desired


def test_a_use_in_the_future_counts_as_now() -> None:
    assert unload_idle(start(), {"/m/a": 10.0**10}, 60.0, 120.0).loaded == ["/m/a"]
    assert unload_idle(start(), {"/m/a": 10.0**10}, 60.0, 10.0**10 + 61).loaded == []


def test_a_request_far_ahead_of_every_decision_is_not_believed() -> None:
    far = ModelRequest("b", "b", True, 2.0**33)
    assert apply_requests(start(), [far]).loaded == ["/m/a"]
    by_time = apply_requests(start(), [ModelRequest("b", "b", True, 1.8e9)])
    assert by_time.newest == 1.8e9
    after = apply_requests(by_time, [ModelRequest("b", "b", False, by_time.newest + 1)])
    assert after.loaded == ["/m/a"]


def test_as_many_models_are_remembered_as_a_beacon_has_room_for() -> None:
    desired = start()
    for number in range(MAX_KNOWN_MODELS + 3):
        request = ModelRequest(f"o/{number}", f"o/{number}", number % 2 == 0, 1.0 + number)
        desired = apply_requests(desired, [request])
    assert len(desired.models) == MAX_KNOWN_MODELS
    assert "o/1" not in desired.models
    assert len(desired.loaded) == MAX_PIPELINES
