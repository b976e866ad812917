"""The planner keeps a pipeline as long as it can, and replaces it when it must."""

from __future__ import annotations

from pathlib import Path

from pomona.messages.control import Beacon, Pipeline, StageStatus, StageWorkerFacts
from pomona.models import EMBEDDED_MODEL, read_facts
from pomona_planner.deciding import Decider, Wish
from pomona_planner.memory import PlanMemory

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
        "stage_worker", "cpu", memory, 0, stages=stages, broken_epoch=broken, broken_reason="gap"
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


def decider(stages: int = 2, pipeline: Pipeline | None = None) -> Decider:
    return Decider(Wish(EMBEDDED_MODEL, stages), FACTS, pipeline)


def formed(keeper: Decider, epoch: int = 7) -> Pipeline:
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
