"""Which models should be loaded, and how several share memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.control import (
    Beacon,
    ModelRequest,
    Pipeline,
    Stage,
    StageWorkerFacts,
    WantedModel,
)
from pomona.models import EMBEDDED_MODEL, read_facts
from pomona_planner.control.desired_models import DesiredModels, first_wants, hear, unload_idle
from pomona_planner.cost_model.cache_sharing import PlacedModel, fair_cache_tokens, leave_room
from pomona_planner.cost_model.memory import WORKSPACE_BYTES, cache_bytes_per_token, weight_bytes
from support.beacons import beacon_of

KNOWN = [("a", "/m/a"), ("b", "/m/b")]


def start(remembered: DesiredModels | None = None) -> DesiredModels:
    return first_wants(("/m/a",), KNOWN, remembered)


def test_at_first_the_settings_count() -> None:
    wants = start()
    assert wants.loaded == ["/m/a"]
    assert list(wants.models) == ["/m/a", "/m/b"]


def test_a_request_may_name_a_model_or_its_source() -> None:
    for asked in ("b", "/m/b"):
        assert hear(start(), [ModelRequest(asked, "b", True, 5.0)]).loaded == ["/m/a", "/m/b"]
    new = hear(start(), [ModelRequest("owner/model", "owner/model", True, 5.0)])
    assert new.models["owner/model"].loaded


def test_what_was_heard_before_changes_nothing() -> None:
    request = ModelRequest("b", "b", True, 5.0)
    wants = hear(start(), [request])
    assert hear(wants, [request]) is wants
    assert hear(wants, [ModelRequest("b", "b", False, 4.0)]) is wants


@given(st.permutations([(True, 1.0), (False, 2.0), (True, 3.0), (False, 4.0)]))
def test_the_newest_word_counts_in_whatever_order_it_comes(words: list[tuple[bool, float]]) -> None:
    wants = start()
    for loaded, at in words:
        wants = hear(wants, [ModelRequest("b", "b", loaded, at)])
    assert wants.models["/m/b"] == WantedModel("b", "/m/b", False, 4.0)


def test_a_planner_that_comes_back_wants_what_was_asked() -> None:
    wants = hear(start(), [ModelRequest("b", "b", True, 5.0), ModelRequest("a", "a", False, 6.0)])
    assert start(wants).loaded == ["/m/b"]


def test_an_operator_who_names_other_models_is_obeyed() -> None:
    wants = hear(start(), [ModelRequest("a", "a", False, 6.0)])
    assert first_wants(("/m/a", "/m/b"), KNOWN, wants).loaded == ["/m/a", "/m/b"]


def test_what_nobody_uses_is_unloaded_and_what_is_not_ready_is_left() -> None:
    wants = hear(start(), [ModelRequest("b", "b", True, 100.0)])
    left = unload_idle(wants, {"/m/a": 50.0}, 60.0, 120.0)
    assert left.loaded == ["/m/b"]
    assert left.models["/m/a"].at == 120.0
    assert unload_idle(wants, {"/m/a": 70.0}, 60.0, 120.0) is wants


def worker(name: str, node: str, memory: int) -> Beacon:
    return beacon_of(
        "stage_worker",
        node,
        name=name,
        facts={"usable_memory_bytes": memory},
        endpoints={"data": f"tcp://{name}"},
    )


def memory(beacon: Beacon) -> int:
    assert isinstance(beacon.facts, StageWorkerFacts)
    return beacon.facts.usable_memory_bytes


FACTS = read_facts(EMBEDDED_MODEL)
GB = 1 << 30


def tenant(epoch: int, tokens: int, *stages: tuple[str, int, int]) -> PlacedModel:
    placed = tuple(Stage(name, a, b, f"tcp://{name}") for name, a, b in stages)
    model = f"m{epoch}"
    pipeline = Pipeline(model, model, epoch, 30, "active", placed, 8192, tokens)
    return PlacedModel(pipeline, FACTS)


def test_room_is_what_others_leave_on_a_whole_node() -> None:
    workers = [worker("w0", "n0", 8 * GB), worker("w1", "n0", 8 * GB), worker("w2", "n1", 8 * GB)]
    other = tenant(1, 1000, ("w0", 0, 15), ("w2", 15, 30))
    left = [memory(beacon) for beacon in leave_room(workers, [other])]
    taken = weight_bytes(FACTS, 0, 15, True) + WORKSPACE_BYTES
    taken += int(1000 * cache_bytes_per_token(FACTS, 0, 15, True, 0))
    assert left[0] == left[1] == 8 * GB - taken
    assert left[2] < 8 * GB


def test_models_on_one_node_share_its_caches_and_one_alone_takes_all() -> None:
    workers = [worker("w0", "n0", 8 * GB), worker("w1", "n1", 8 * GB)]
    first, second = tenant(1, 10**6, ("w0", 0, 30)), tenant(2, 10**6, ("w0", 0, 30))
    alone = tenant(3, 10**6, ("w1", 0, 30))
    assert fair_cache_tokens([first], workers) == {}
    caps = fair_cache_tokens([first, second, alone], workers)
    assert caps.keys() == {1, 2}
    per_token = cache_bytes_per_token(FACTS, 0, 30, True, 0)
    weights = weight_bytes(FACTS, 0, 30, True) + WORKSPACE_BYTES
    assert sum(caps.values()) * per_token + 2 * weights <= 8 * GB
    assert caps[1] == caps[2] > 8192
