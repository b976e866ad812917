"""Proposals choose stages from the workers present, or report missing resources."""

from __future__ import annotations

from support.planner_beacons import GIGA, controller, form, pinned_controller, worker


def test_stages_are_disjoint_and_cover_the_model() -> None:
    pipeline = form(controller())
    assert pipeline.state == "forming"
    assert pipeline.epoch == 7
    bounds = [(stage.start, stage.stop) for stage in pipeline.stages]
    assert bounds[0][0] == 0
    assert bounds[0][1] == bounds[1][0]
    assert bounds[1][1] == 30
    assert pipeline.cache_tokens > 1024


def test_too_few_workers_for_the_requested_stages_are_reported() -> None:
    pipeline = controller().decide([worker("a")], 1, 100.0)
    assert pipeline.state == "impossible"
    assert "2 stage workers are needed" in pipeline.reason


def test_the_fewest_workers_that_hold_the_model_are_used_by_default() -> None:
    planner = controller(stages=0)
    assert planner.decide([worker("a"), worker("b")], 1, 0.0).state == "impossible"
    pipeline = planner.decide([worker("a"), worker("b")], 1, 3.0)
    assert len(pipeline.stages) == 1
    small = controller(stages=0)
    tight = [worker(name, memory=600 * 10**6) for name in "abc"]
    small.decide(tight, 1, 0.0)
    assert len(small.decide(tight, 1, 3.0).stages) == 3


def test_workers_of_one_node_share_its_memory() -> None:
    planner = controller(stages=2)
    memory = GIGA
    crowded = [worker("a", node="n", memory=memory), worker("b", node="n", memory=memory)]
    assert planner.decide(crowded, 1, 0.0).state == "impossible"
    apart = [worker("a", memory=memory), worker("b", memory=memory)]
    assert controller(stages=2).decide(apart, 1, 0.0).state == "forming"


def test_missing_memory_is_reported_in_numbers() -> None:
    pipeline = controller().decide([worker("a", memory=10**8), worker("b", memory=10**8)], 1, 0.0)
    assert "GB" in pipeline.reason
    assert "are missing" in pipeline.reason


def test_other_models_that_could_be_unloaded_are_named() -> None:
    tight = [worker("a", memory=10**8), worker("b", memory=10**8)]
    pipeline = controller().decide(tight, 1, 0.0, other_models=["another-model"])
    assert "unload another-model" in pipeline.reason


def test_an_excluded_node_holds_no_stage() -> None:
    planner = pinned_controller(excluded=frozenset({"b"}))
    found = planner.decide([worker(x) for x in "abc"], 1, 0.0)
    assert {stage.worker for stage in found.stages} == {"a", "c"}
