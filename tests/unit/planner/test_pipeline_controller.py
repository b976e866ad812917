"""The planner keeps a pipeline as long as it can, and replaces it when it must."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pomona.messages.control import (
    Beacon,
    Pipeline,
    StageStatus,
    StageWorkerFacts,
)
from pomona.messages.discovery import LinkFacts
from pomona.models import EMBEDDED_MODEL, read_facts
from pomona_planner.control.pins import parse_pin, pins_of
from pomona_planner.control.pipeline_controller import PipelineController
from pomona_planner.control.proposal import PipelineSpec, Replan
from pomona_planner.control.state_files import PlanMemory
from support.beacons import beacon_of

FACTS = read_facts(EMBEDDED_MODEL)
GIGA = 10**9


def worker(
    name: str,
    *stages: StageStatus,
    port: int = 1,
    memory: int = 20 * GIGA,
    broken: int = 0,
    node: str | None = None,
) -> Beacon:
    facts = StageWorkerFacts(
        "cpu", memory, 0, stages=stages, broken_epoch=broken, broken_reason="gap"
    )
    return Beacon(
        cluster="c",
        name=name,
        node=node or name,
        boot=f"boot{port}",
        seq=1,
        version="0",
        pid=1,
        state="ready",
        progress=0,
        queued=0,
        endpoints={"data": f"tcp://{name}:{port}"},
        facts=facts,
    )


def loaded(pipeline: Pipeline, state: str = "ready", **others: str) -> list[Beacon]:
    """The pipeline's workers, each as its stage is."""
    return [
        worker(
            stage.worker,
            StageStatus(
                pipeline.model, pipeline.epoch, stage.start, stage.stop,
                state,  # type: ignore[arg-type]  # a literal of the callers
                error=others.get("error", ""),
            ),
        )
        for stage in pipeline.stages
    ]  # fmt: skip


def decider(stages: int = 2, pipeline: Pipeline | None = None) -> PipelineController:
    return PipelineController(PipelineSpec(EMBEDDED_MODEL, stages), FACTS, pipeline)


def formed(keeper: PipelineController, epoch: int = 7) -> Pipeline:
    return keeper.decide([worker("a"), worker("b")], epoch, 0.0)


def test_stages_are_disjoint_and_cover_the_model() -> None:
    pipeline = formed(decider())
    assert pipeline.state == "forming"
    assert pipeline.epoch == 7
    bounds = [(stage.start, stage.stop) for stage in pipeline.stages]
    assert bounds[0][0] == 0
    assert bounds[0][1] == bounds[1][0]
    assert bounds[1][1] == 30
    assert pipeline.cache_tokens > 1024


def test_it_waits_for_as_many_workers_as_are_wanted_and_says_so() -> None:
    pipeline = decider().decide([worker("a")], 1, 100.0)
    assert pipeline.state == "impossible"
    assert "2 stage workers are wanted" in pipeline.reason


def test_it_is_active_when_every_stage_is_ready_and_then_stays() -> None:
    keeper = decider()
    pipeline = formed(keeper)
    assert keeper.decide(loaded(pipeline, "loading"), 8, 1.0).state == "forming"
    assert keeper.decide(loaded(pipeline)[:1] + loaded(pipeline, "loading")[1:], 8, 1.5).state == (
        "forming"
    )
    active = keeper.decide(loaded(pipeline), 8, 2.0)
    assert active.state == "active"
    assert active.epoch == 7
    more = [*loaded(pipeline), worker("c")]
    assert keeper.decide(more, 8, 9.0) == active


def test_a_worker_that_is_gone_ends_the_epoch_and_its_return_begins_another() -> None:
    keeper = decider()
    pipeline = formed(keeper)
    keeper.decide(loaded(pipeline), 8, 1.0)
    gone = keeper.decide(loaded(pipeline)[:1], 8, 5.0)
    assert gone.state == "impossible"
    assert gone.epoch == 8
    assert gone.stages == ()
    back = keeper.decide([worker("a"), worker("b", port=2)], 9, 6.0)
    assert back.state == "forming"
    assert back.epoch == 9
    assert back.stages[1].endpoint == "tcp://b:2"


def test_a_worker_that_started_anew_is_not_mistaken_for_its_past() -> None:
    keeper = decider()
    pipeline = formed(keeper)
    keeper.decide(loaded(pipeline), 8, 1.0)
    again = keeper.decide([worker("a"), worker("b", port=2)], 8, 2.0)
    assert again.epoch == 8
    assert "started anew" in again.reason


def test_a_broken_epoch_is_replaced_at_once() -> None:
    keeper = decider()
    pipeline = formed(keeper)
    first, second = loaded(pipeline)
    broken = worker("b", *second.facts.stages, broken=7)  # type: ignore[union-attr]  # worker facts
    replaced = keeper.decide([first, broken], 8, 2.0)
    assert (replaced.epoch, replaced.state) == (8, "forming")
    assert "gap" in replaced.reason
    assert keeper.decide([first, broken], 9, 2.1).epoch == 8


def test_a_stage_that_cannot_load_is_said_and_tried_again_after_pauses() -> None:
    keeper = decider()
    pipeline = formed(keeper)
    failed = loaded(pipeline, "failed", error="weights.gguf lacks the tensor of layer 3")
    said = keeper.decide(failed, 8, 1.0)
    assert said.epoch == 7
    assert said.state == "forming"
    assert "layer 3" in said.reason
    assert keeper.decide(failed, 8, 3.0).epoch == 7
    assert keeper.decide(failed, 8, 6.5).epoch == 8


def test_fewest_workers_that_hold_the_model_are_taken_when_no_number_is_wanted() -> None:
    keeper = decider(stages=0)
    assert keeper.decide([worker("a"), worker("b")], 1, 0.0).state == "impossible"
    pipeline = keeper.decide([worker("a"), worker("b")], 1, 3.0)
    assert len(pipeline.stages) == 1
    small = decider(stages=0)
    tight = [worker(name, memory=600 * 10**6) for name in "abc"]
    small.decide(tight, 1, 0.0)
    assert len(small.decide(tight, 1, 3.0).stages) == 3


def test_workers_of_one_machine_share_its_memory() -> None:
    keeper = decider(stages=2)
    memory = 1000 * 10**6
    crowded = [worker("a", node="n", memory=memory), worker("b", node="n", memory=memory)]
    assert keeper.decide(crowded, 1, 0.0).state == "impossible"
    apart = [worker("a", memory=memory), worker("b", memory=memory)]
    assert decider(stages=2).decide(apart, 1, 0.0).state == "forming"


def test_what_is_missing_is_said_in_numbers() -> None:
    pipeline = decider().decide([worker("a", memory=10**8), worker("b", memory=10**8)], 1, 0.0)
    assert "GB" in pipeline.reason
    assert "are missing" in pipeline.reason


def test_the_models_that_could_make_room_are_named() -> None:
    tight = [worker("a", memory=10**8), worker("b", memory=10**8)]
    said = decider().decide(tight, 1, 0.0, beside=["another-model"])
    assert "unload another-model" in said.reason


def test_a_remembered_pipeline_is_taken_up_again(tmp_path: Path) -> None:
    keeper = decider()
    pipeline = formed(keeper)
    active = keeper.decide(loaded(pipeline), 8, 1.0)
    PlanMemory(tmp_path).write((active,))

    remembered = PlanMemory(tmp_path)
    assert remembered.epoch == 7
    again = decider(pipeline=remembered.pipelines[0])
    assert again.decide(loaded(pipeline), 8, 0.0) == active


def test_an_unreadable_memory_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    memory = PlanMemory(tmp_path)
    assert (memory.epoch, memory.pipelines) == (0, ())


def test_a_disk_that_fails_does_not_stop_planning(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    memory = PlanMemory(blocked)
    memory.write((formed(decider()),))
    assert memory.epoch == 7


def pinned(
    *pins: str, stages: int = 2, excluded: frozenset[str] = frozenset()
) -> PipelineController:
    wish = PipelineSpec(
        EMBEDDED_MODEL, stages, excluded=excluded, pins=pins_of(map(parse_pin, pins), FACTS.name)
    )
    return PipelineController(wish, FACTS, None)


def ranges(pipeline: Pipeline) -> list[tuple[str, int, int]]:
    return [(stage.worker, stage.start, stage.stop) for stage in pipeline.stages]


def test_a_pinned_node_holds_its_layers() -> None:
    found = pinned("b=0..4").decide([worker("a"), worker("b")], 1, 0.0)
    assert ranges(found) == [("b", 0, 4), ("a", 4, 30)]
    for_this = pinned("b=0..9", f"b=0..5@{FACTS.name}", "a=1..2@other")
    assert ranges(for_this.decide([worker("a"), worker("b")], 1, 0.0)) == [
        ("b", 0, 5),
        ("a", 5, 30),
    ]


def test_a_pin_names_a_worker_of_a_machine_that_has_several() -> None:
    workers = [worker("m.0", node="m"), worker("m.1", node="m"), worker("n.0", node="n")]
    found = pinned("m.1=26..30").decide(workers, 1, 0.0)
    assert ranges(found) == [("n.0", 0, 26), ("m.1", 26, 30)]


def test_an_excluded_node_holds_nothing() -> None:
    found = pinned(excluded=frozenset({"b"})).decide([worker(x) for x in "abc"], 1, 0.0)
    assert {stage.worker for stage in found.stages} == {"a", "c"}


@pytest.mark.parametrize(
    ("pins", "words"),
    [
        (["b=0..31"], "b is pinned to layers 0..31 of SmolLM2-135M-Instruct, which has 30 layers"),
        (["b=0..9", "a=8..30"], "b and a are both pinned to layer 8"),
        (["b=0..9", "a=10..30"], "fits, but not with the layers that are pinned to a, b"),
    ],
)
def test_pins_that_cannot_be_kept_are_said(pins: list[str], words: str) -> None:
    found = pinned(*pins).decide([worker("a"), worker("b")], 1, 0.0)
    assert found.state == "impossible"
    assert words in found.reason
    assert "POMONA_PLANNER_PINS" in found.reason


def test_layers_that_are_pinned_to_a_node_too_small_for_them_are_said() -> None:
    found = pinned("b=0..20").decide([worker("a"), worker("b", memory=GIGA // 2)], 1, 0.0)
    assert "b is pinned to layers 0..20" in found.reason
    assert "of its 0.5 GB" in found.reason


@pytest.mark.parametrize("text", ["b", "b=5", "b=5..2", "b=0..", "=0..3", "b=0..3@"])
def test_what_is_no_pin_is_refused_with_how_one_is_written(text: str) -> None:
    with pytest.raises(ValueError, match=r"NODE=START\.\.STOP"):
        parse_pin(text)


def test_a_plan_that_breaks_a_pin_is_replaced_once_nothing_runs() -> None:
    before = formed(decider(), 3)
    wish = PipelineSpec(EMBEDDED_MODEL, 2, pins=(parse_pin("b=0..4"),))
    keeper = PipelineController(wish, FACTS, before)
    busy = [
        *loaded(before),
        beacon_of("gateway", "g", facts={"running": 1}),
    ]
    workers, others = busy[:2], busy[2:]
    assert keeper.decide(workers, 4, 100.0, others).epoch == 3
    assert "as the pins" in keeper.pipeline.proposal
    after = keeper.decide(workers, 4, 200.0)
    assert after.epoch == 4
    assert ranges(after)[0] == ("b", 0, 4)


EVERYWHERE = "tcp://0.0.0.0:7"


def anywhere(name: str) -> Beacon:
    return replace(worker(name), endpoints={"data": EVERYWHERE})


def seeing(
    node: str, other: str, address: str, dead: tuple[str, ...] = (), others: tuple[str, ...] = ()
) -> Beacon:
    link = LinkFacts(other, address, "ethernet", 100.0, 1.0, 1e9, 1e6, others, dead)
    return beacon_of("discovery", node, facts={"links": (link,)})


def test_workers_that_listen_on_every_address_wait_until_the_ways_are_known() -> None:
    workers = [anywhere("a"), anywhere("b")]
    keeper, one = decider(), seeing("a", "b", "10.0.0.2")
    assert "waiting for b to find the best way to a" in keeper.decide(workers, 1, 0.0, [one]).reason
    found = keeper.decide(workers, 1, 1.0, [one, seeing("b", "a", "10.0.0.1")])
    assert [stage.address for stage in found.stages] == ["tcp://10.0.0.1:7", "tcp://10.0.0.2:7"]


def test_workers_of_one_machine_reach_each_other_without_tcp() -> None:
    workers = [
        replace(
            anywhere(name), node=node, endpoints={"data": EVERYWHERE, "local": f"ipc://@{name}"}
        )
        for name, node in (("a", "m"), ("b", "m"), ("c", "n"))
    ]
    seen = [seeing("m", "n", "10.0.0.2"), seeing("n", "m", "10.0.0.1")]
    found = decider(stages=3).decide(workers, 1, 0.0, seen)
    assert [(x.worker, x.address) for x in found.stages] == [
        ("a", "tcp://10.0.0.1:7"),
        ("b", "ipc://@b"),
        ("c", "tcp://10.0.0.2:7"),
    ]


def test_an_address_that_died_is_replaced_by_another_one_of_the_node() -> None:
    workers, back = [anywhere("a"), anywhere("b")], seeing("b", "a", "10.0.0.1")
    keeper = decider()
    keeper.decide(workers, 1, 0.0, [seeing("a", "b", "10.0.0.2"), back])
    nowhere = [seeing("a", "b", "", ("10.0.0.2",)), back]
    assert keeper.decide(workers, 2, 1.0, nowhere).epoch == 1, "there is no better one"
    other = [seeing("a", "b", "10.9.0.2", ("10.0.0.2",)), back]
    after = keeper.decide(workers, 2, 2.0, other)
    assert after.epoch == 2
    assert "b does not answer at 10.0.0.2 any more" in after.reason
    assert after.stages[1].address == "tcp://10.9.0.2:7"


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_a_cable_that_dies_is_left_both_ways_at_once_whoever_sees_it_first(
    first: str, second: str
) -> None:
    last = {"a": 1, "b": 2}
    fast, slow = ({node: f"10.{network}.0.{last[node]}" for node in "ab"} for network in (72, 71))
    workers, keeper = [anywhere("a"), anywhere("b")], decider()
    before = {
        first: seeing(first, second, fast[second], (), (slow[second],)),
        second: seeing(second, first, fast[first], (), (slow[first],)),
    }
    keeper.decide(workers, 1, 0.0, list(before.values()))
    half = before | {first: seeing(first, second, slow[second], (fast[second],))}
    after = keeper.decide(workers, 2, 1.0, list(half.values()))
    assert after.epoch == 2
    assert [x.address for x in after.stages] == [f"tcp://{slow[node]}:7" for node in "ab"]
    whole = half | {second: seeing(second, first, slow[first], (fast[first],))}
    assert keeper.decide(workers, 3, 2.0, list(whole.values())).epoch == 2


def test_an_address_in_doubt_is_used_when_it_is_the_only_one() -> None:
    seen = [seeing("a", "b", "10.0.0.2"), seeing("b", "a", "10.9.0.1", ("10.0.0.1",))]
    found = decider().decide([anywhere("a"), anywhere("b")], 1, 0.0, seen)
    assert [x.address for x in found.stages] == ["tcp://10.9.0.1:7", "tcp://10.0.0.2:7"]


def measured(pipeline: Pipeline, times_as_long: float) -> list[Beacon]:
    """The pipeline's only worker, whose steps take so many times as long, and a second one."""
    (stage,), said = pipeline.stages, pipeline.prediction
    assert said is not None
    status = StageStatus(
        pipeline.model, pipeline.epoch, stage.start, stage.stop, "ready",
        decode_us=said.stage_us[0] * times_as_long, token_us=said.stage_us[0] * times_as_long,
    )  # fmt: skip
    return [worker("a", status), worker("b")]


@pytest.mark.parametrize(
    ("replan", "times_as_long", "running", "made", "proposed"),
    [
        ("propose", 3, 0, False, True),
        ("idle", 3, 1, False, True),
        ("idle", 3, 0, True, False),
        ("always", 3, 1, True, False),
        ("always", 1.1, 0, False, False),
    ],
)
def test_a_plan_that_gains_enough_is_proposed_or_made_as_the_operator_says(
    replan: Replan, times_as_long: float, running: int, made: bool, proposed: bool
) -> None:
    keeper = PipelineController(
        PipelineSpec(EMBEDDED_MODEL, 1, replan=replan, replan_gain=0.2), FACTS, None
    )
    first = keeper.decide([worker("a"), worker("b")], 1, 0.0)
    gateway = beacon_of("gateway", "g", facts={"running": running})
    after = keeper.decide(measured(first, times_as_long), 2, 100.0, [gateway])
    assert (after.epoch == 2) == made
    assert after.stages[0].worker == ("b" if made else "a")
    assert bool(after.proposal) == proposed


def tried(pipeline: Pipeline, layer_us: float, tail_us: float) -> list[Beacon]:
    """The pipeline's workers, ready, each with what its first steps took."""
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
def test_a_new_pipeline_is_cut_by_what_its_first_steps_took_before_it_serves(
    tail_us: float, layers: int
) -> None:
    keeper = decider()
    first = formed(keeper, 1)
    after = keeper.decide(tried(first, 1_000, tail_us), 2, 1.0)
    assert (after.epoch, after.state) == (2, "forming")
    assert "first steps" in after.reason
    assert after.stages[0].stop == layers
    active = keeper.decide(tried(after, 1_000, tail_us), 3, 2.0)
    assert (active.epoch, active.state) == (2, "active")
    said = active.prediction
    assert said is not None
    whole_s = (30_000 + tail_us) / 1e6
    assert said.tokens_per_second == pytest.approx(1 / whole_s, rel=0.05)
    assert said.tail_us == pytest.approx(tail_us, rel=0.1)


def test_it_stays_as_it_is_where_the_first_steps_took_what_was_predicted() -> None:
    keeper = decider()
    first = formed(keeper, 1)
    said = first.prediction
    assert said is not None
    layer_us = said.stage_us[0] / first.stages[0].stop
    active = keeper.decide(tried(first, layer_us, said.tail_us), 2, 1.0)
    assert (active.epoch, active.state) == (1, "active")


def test_a_pipeline_that_has_served_is_not_cut_anew() -> None:
    keeper = decider()
    first = formed(keeper, 1)
    served = keeper.decide(loaded(first), 2, 1.0)
    assert served.state == "active"
    assert keeper.decide(tried(first, 1_000, 20_000), 2, 1.5).epoch == 1
    assert keeper.decide(tried(first, 1_000, 20_000), 2, 100.0).epoch == 1, "proposed at most"
