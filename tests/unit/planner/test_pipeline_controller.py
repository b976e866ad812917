"""The controller keeps a pipeline as long as possible and replaces it when necessary."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.messages.control import Beacon, Pipeline, StageStatus, StageWorkerFacts
from pomona.models import EMBEDDED_MODEL
from pomona_planner.control.pins import parse_pin
from pomona_planner.control.pipeline_controller import PipelineController
from pomona_planner.control.proposal import PipelineSpec, Replan
from support.beacons import beacon_of
from support.planner_beacons import FACTS, controller, form, loaded, ranges, worker


def test_a_pipeline_is_active_once_every_stage_is_ready_and_then_stays() -> None:
    planner = controller()
    pipeline = form(planner)
    assert planner.decide(loaded(pipeline, "loading"), 8, 1.0).state == "forming"
    half = loaded(pipeline)[:1] + loaded(pipeline, "loading")[1:]
    assert planner.decide(half, 8, 1.5).state == "forming"
    active = planner.decide(loaded(pipeline), 8, 2.0)
    assert active.state == "active"
    assert active.epoch == 7
    more = [*loaded(pipeline), worker("c")]
    assert planner.decide(more, 8, 9.0) == active


def test_a_lost_worker_ends_the_epoch_and_its_return_starts_another() -> None:
    planner = controller()
    pipeline = form(planner)
    planner.decide(loaded(pipeline), 8, 1.0)
    gone = planner.decide(loaded(pipeline)[:1], 8, 5.0)
    assert gone.state == "impossible"
    assert gone.epoch == 8
    assert gone.stages == ()
    back = planner.decide([worker("a"), worker("b", port=2)], 9, 6.0)
    assert back.state == "forming"
    assert back.epoch == 9
    assert back.stages[1].endpoint == "tcp://b:2"


def test_a_restarted_worker_ends_the_epoch() -> None:
    planner = controller()
    pipeline = form(planner)
    planner.decide(loaded(pipeline), 8, 1.0)
    again = planner.decide([worker("a"), worker("b", port=2)], 8, 2.0)
    assert again.epoch == 8
    assert "b has restarted" in again.reason


def test_a_broken_epoch_is_replaced_at_once() -> None:
    planner = controller()
    pipeline = form(planner)
    first, second = loaded(pipeline)
    broken = worker("b", *second.facts.stages, broken=7)  # type: ignore[union-attr]  # worker facts
    replaced = planner.decide([first, broken], 8, 2.0)
    assert (replaced.epoch, replaced.state) == (8, "forming")
    assert "gap" in replaced.reason
    assert planner.decide([first, broken], 9, 2.1).epoch == 8


def test_a_failed_load_is_reported_and_retried_after_a_pause() -> None:
    planner = controller()
    pipeline = form(planner)
    failed = loaded(pipeline, "failed", error="weights.gguf lacks the tensor of layer 3")
    reported = planner.decide(failed, 8, 1.0)
    assert reported.epoch == 7
    assert reported.state == "forming"
    assert "layer 3" in reported.reason
    assert planner.decide(failed, 8, 3.0).epoch == 7
    assert planner.decide(failed, 8, 6.5).epoch == 8


def test_a_cache_limit_keeps_the_epoch_and_is_removed_again() -> None:
    planner = controller()
    pipeline = form(planner)
    limited = planner.limit_cache_tokens(2000)
    assert (limited.epoch, limited.cache_tokens) == (7, 2000)
    assert planner.limit_cache_tokens(None) == pipeline


def test_a_plan_that_breaks_a_pin_is_replaced_once_the_cluster_is_idle() -> None:
    before = form(controller(), 3)
    spec = PipelineSpec(EMBEDDED_MODEL, 2, pins=(parse_pin("b=0..4"),))
    planner = PipelineController(spec, FACTS, before)
    gateway = beacon_of("gateway", "g", facts={"running": 1})
    assert planner.decide(loaded(before), 4, 100.0, [gateway]).epoch == 3
    assert "as the pins require" in planner.pipeline.proposal
    after = planner.decide(loaded(before), 4, 200.0)
    assert after.epoch == 4
    assert ranges(after)[0] == ("b", 0, 4)


def test_every_machine_gets_a_stage_when_the_settings_spread_the_model() -> None:
    planner = PipelineController(PipelineSpec(EMBEDDED_MODEL, spread=True), FACTS, None)
    planner.decide([worker("a")], 7, 0.0)
    alone = planner.decide([worker("a")], 7, 10.0)
    assert ranges(alone) == [("a", 0, 30)]
    active = planner.decide(loaded(alone), 8, 11.0)
    assert active.state == "active"

    both = [*loaded(alone), worker("b")]
    busy = beacon_of("gateway", "g", facts={"running": 1})
    assert planner.decide(both, 8, 12.0, [busy]).epoch == 7
    planner.decide(both, 8, 14.5, [busy])
    assert "every machine holds a stage" in planner.pipeline.proposal
    spread = planner.decide(both, 8, 50.0)
    assert spread.epoch == 8
    assert {stage.worker for stage in spread.stages} == {"a", "b"}

    planner.decide(loaded(spread), 9, 51.0)
    planner.decide(loaded(spread)[:1], 9, 60.0)
    left = planner.decide(loaded(spread)[:1], 9, 200.0)
    assert len(left.stages) == 1, "an absent machine blocks nothing"


def test_a_machine_that_can_hold_no_stage_blocks_nothing() -> None:
    planner = PipelineController(PipelineSpec(EMBEDDED_MODEL, spread=True), FACTS, None)
    small = worker("b", memory=1000)
    planner.decide([worker("a"), small], 7, 0.0)
    formed = planner.decide([worker("a"), small], 7, 10.0)
    assert ranges(formed) == [("a", 0, 30)]


def measured(pipeline: Pipeline, factor: float) -> list[Beacon]:
    """Returns the pipeline's only worker, slower by a factor than predicted, and a second one."""
    (stage,), prediction = pipeline.stages, pipeline.prediction
    assert prediction is not None
    step_us = prediction.stage_us[0] * factor
    status = StageStatus(
        pipeline.model, pipeline.epoch, stage.start, stage.stop, "ready",
        decode_us=step_us, token_us=step_us,
    )  # fmt: skip
    return [worker("a", status), worker("b")]


@pytest.mark.parametrize(
    ("replan", "factor", "running", "applied", "proposed"),
    [
        ("propose", 3, 0, False, True),
        ("idle", 3, 1, False, True),
        ("idle", 3, 0, True, False),
        ("always", 3, 1, True, False),
        ("always", 1.1, 0, False, False),
    ],
)
def test_a_better_plan_is_proposed_or_applied_as_the_setting_demands(
    replan: Replan, factor: float, running: int, applied: bool, proposed: bool
) -> None:
    spec = PipelineSpec(EMBEDDED_MODEL, 1, replan=replan, replan_gain=0.2)
    planner = PipelineController(spec, FACTS, None)
    first = form(planner, 1)
    gateway = beacon_of("gateway", "g", facts={"running": running})
    after = planner.decide(measured(first, factor), 2, 100.0, [gateway])
    assert (after.epoch == 2) == applied
    assert after.stages[0].worker == ("b" if applied else "a")
    assert bool(after.proposal) == proposed


def first_steps(pipeline: Pipeline, layer_us: float, tail_us: float) -> list[Beacon]:
    """Returns the pipeline's workers, ready, with the measured time of their first steps."""
    return [
        worker(
            stage.worker,
            StageStatus(
                pipeline.model, pipeline.epoch, stage.start, stage.stop, "ready",
                decode_us=(stage.stop - stage.start) * layer_us
                + (tail_us if stage.stop == 30 else 0.0),
                tail_us=tail_us if stage.stop == 30 else 0.0,
            ),
        )
        for stage in pipeline.stages
    ]  # fmt: skip


@pytest.mark.parametrize(("tail_us", "layers"), [(6_000, 18), (20_000, 25), (1_000, 15)])
def test_a_new_pipeline_is_cut_again_by_its_first_steps_before_it_serves(
    tail_us: float, layers: int
) -> None:
    planner = controller()
    first = form(planner, 1)
    after = planner.decide(first_steps(first, 1_000, tail_us), 2, 1.0)
    assert (after.epoch, after.state) == (2, "forming")
    assert "first steps" in after.reason
    assert after.stages[0].stop == layers
    active = planner.decide(first_steps(after, 1_000, tail_us), 3, 2.0)
    assert (active.epoch, active.state) == (2, "active")
    prediction = active.prediction
    assert prediction is not None
    token_s = (30_000 + tail_us) / 1e6
    assert prediction.tokens_per_second == pytest.approx(1 / token_s, rel=0.05)
    assert prediction.tail_us == pytest.approx(tail_us, rel=0.1)


def test_first_steps_that_match_the_prediction_change_nothing() -> None:
    planner = controller()
    first = form(planner, 1)
    prediction = first.prediction
    assert prediction is not None
    layer_us = prediction.stage_us[0] / first.stages[0].stop
    active = planner.decide(first_steps(first, layer_us, prediction.tail_us), 2, 1.0)
    assert (active.epoch, active.state) == (1, "active")


def test_a_pipeline_that_has_served_is_not_cut_again() -> None:
    planner = controller()
    first = form(planner, 1)
    served = planner.decide(loaded(first), 2, 1.0)
    assert served.state == "active"
    assert planner.decide(first_steps(first, 1_000, 20_000), 2, 1.5).epoch == 1
    assert planner.decide(first_steps(first, 1_000, 20_000), 2, 100.0).epoch == 1, "only proposed"


def free_controller(**fields: object) -> PipelineController:
    """Returns a controller that chooses the number of stages, for a model that fits anywhere."""
    spec = PipelineSpec(EMBEDDED_MODEL, settle_s=0.0, **fields)  # type: ignore[arg-type]  # of a spec
    return PipelineController(spec, FACTS, None)


def test_a_lost_worker_is_waited_for_before_the_others_do_without_it() -> None:
    planner = free_controller()
    first = planner.decide([worker("a"), worker("b")], 1, 0.0)
    (stage,) = first.stages
    other = "b" if stage.worker == "a" else "a"
    planner.decide([*loaded(first), worker(other)], 2, 1.0)
    waiting = planner.decide([worker(other)], 2, 5.0)
    assert (waiting.epoch, waiting.state) == (1, "forming")
    assert "may be restarting" in waiting.reason
    around = planner.decide([worker(other)], 2, 30.0)
    assert around.epoch == 2
    assert around.stages[0].worker == other


def test_a_worker_that_returns_in_time_is_used_again() -> None:
    planner = free_controller()
    first = planner.decide([worker("a"), worker("b")], 1, 0.0)
    name = first.stages[0].worker
    other = "b" if name == "a" else "a"
    planner.decide([worker(other)], 2, 5.0)
    again = planner.decide([worker(other), worker(name, port=2)], 2, 8.0)
    assert again.epoch == 2
    assert "has restarted" in again.reason


def test_a_node_that_was_planned_around_is_taken_back_once_the_model_is_idle() -> None:
    planner = free_controller()
    fast = worker("a")
    assert isinstance(fast.facts, StageWorkerFacts)
    fast = replace(fast, facts=replace(fast.facts, memory_bandwidth=80e9, matrix_flops=5e11))
    first = planner.decide([fast, worker("b")], 1, 0.0)
    assert [stage.worker for stage in first.stages] == ["a"]
    planner.decide([worker("b")], 2, 5.0)
    around = planner.decide([worker("b")], 2, 40.0)
    assert [stage.worker for stage in around.stages] == ["b"]
    back = replace(fast, boot="boot2", endpoints={"data": "tcp://a:2"})
    present = [back, *loaded(around)]
    busy, idle = (beacon_of("gateway", "g", facts={"running": n}) for n in (1, 0))
    assert planner.decide(present, 3, 100.0, [busy]).epoch == 2
    assert planner.decide(present, 3, 200.0, [idle]).epoch == 3
    assert [stage.worker for stage in planner.pipeline.stages] == ["a"]


def test_a_worker_that_stalls_again_and_again_is_used_only_when_there_is_no_other_plan() -> None:
    planner = controller()
    spared = planner.decide([worker("a", stalls=3), worker("b"), worker("c")], 1, 0.0)
    assert [stage.worker for stage in spared.stages] == ["b", "c"]
    planner = controller()
    needed = planner.decide([worker("a", stalls=3), worker("b")], 1, 0.0)
    assert [stage.worker for stage in needed.stages] == ["a", "b"]
    planner = controller()
    seldom = planner.decide([worker("a", stalls=2), worker("b"), worker("c")], 1, 0.0)
    assert [stage.worker for stage in seldom.stages] == ["a", "b"]


def test_a_worker_that_died_of_long_prompts_limits_the_pipelines_prompts() -> None:
    planner = controller()
    weak = worker("b")
    assert isinstance(weak.facts, StageWorkerFacts)
    weak = replace(weak, facts=replace(weak.facts, prompt_limit=6000))
    pipeline = planner.decide([worker("a"), weak], 1, 0.0)
    assert pipeline.prompt_limit == 6000
    assert "b died" in pipeline.prompt_limit_reason
    assert controller().decide([worker("a"), worker("b")], 1, 0.0).prompt_limit == 0


def with_bandwidth(beacon: Beacon, bandwidth: float) -> Beacon:
    assert isinstance(beacon.facts, StageWorkerFacts)
    return replace(beacon, facts=replace(beacon.facts, memory_bandwidth=bandwidth))


@pytest.mark.parametrize(
    ("bandwidth", "running", "is_kept"),
    [(9e9, 0, True), (12e9, 0, False), (12e9, 1, True), (40e9, 0, False), (40e9, 1, False)],
)
def test_a_pipeline_that_comes_back_keeps_its_cuts_unless_others_are_much_faster(
    bandwidth: float, running: int, is_kept: bool
) -> None:
    planner = controller()
    first = form(planner)
    a = with_bandwidth(worker("a"), bandwidth)
    gateway = beacon_of("gateway", "g", facts={"running": running})
    planner.decide([a], 8, 5.0, [gateway])
    again = planner.decide([a, worker("b", port=2)], 9, 6.0, [gateway])
    assert again.epoch == 9
    assert (ranges(again) == ranges(first)) == is_kept
