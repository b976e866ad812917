"""The newest request decides whether a model should be loaded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.control import ModelRequest, WantedModel
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
    assert left.models["/m/a"].at == 120.0
    assert unload_idle(desired, {"/m/a": 70.0}, 60.0, 120.0) is desired
