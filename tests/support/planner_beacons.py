"""Beacons and controllers for tests of the planner, with the embedded model of 30 layers."""

from __future__ import annotations

from dataclasses import replace

from pomona.messages.control import Beacon, Pipeline, StageStatus, StageWorkerFacts
from pomona.models import EMBEDDED_MODEL, read_facts
from pomona_planner.control.pins import parse_pin, pins_for_model
from pomona_planner.control.pipeline_controller import PipelineController
from pomona_planner.control.proposal import PipelineSpec

FACTS = read_facts(EMBEDDED_MODEL)
GIGA = 10**9


def worker(
    name: str,
    *stages: StageStatus,
    port: int = 1,
    memory: int = 20 * GIGA,
    broken: int = 0,
    node: str | None = None,
    stalls: int = 0,
) -> Beacon:
    facts = StageWorkerFacts(
        "cpu", memory, 0, stages=stages, broken_epoch=broken, broken_reason="gap",
        stalled_at=tuple(float(number) for number in range(stalls)),
    )  # fmt: skip
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


def loaded(pipeline: Pipeline, state: str = "ready", error: str = "") -> list[Beacon]:
    """Returns the pipeline's workers, with all stages in one state."""
    return [
        worker(
            stage.worker,
            StageStatus(
                pipeline.model, pipeline.epoch, stage.start, stage.stop,
                state,  # type: ignore[arg-type]  # a literal of the callers
                error=error,
            ),
        )
        for stage in pipeline.stages
    ]  # fmt: skip


def controller(stages: int = 2, saved: Pipeline | None = None) -> PipelineController:
    return PipelineController(PipelineSpec(EMBEDDED_MODEL, stages), FACTS, saved)


def pinned_controller(
    *pins: str, stages: int = 2, excluded: frozenset[str] = frozenset()
) -> PipelineController:
    spec = PipelineSpec(
        EMBEDDED_MODEL,
        stages,
        excluded=excluded,
        pins=pins_for_model(map(parse_pin, pins), FACTS.name),
    )
    return PipelineController(spec, FACTS, None)


def form(planner: PipelineController, epoch: int = 7) -> Pipeline:
    """Forms a pipeline on workers a and b."""
    return planner.decide([worker("a"), worker("b")], epoch, 0.0)


def ranges(pipeline: Pipeline) -> list[tuple[str, int, int]]:
    return [(stage.worker, stage.start, stage.stop) for stage in pipeline.stages]


def on_all_addresses(name: str, port: int = 7) -> Beacon:
    """Returns a worker that listens on all addresses of its node."""
    return replace(worker(name), endpoints={"data": f"tcp://0.0.0.0:{port}"})
