"""The operator's choices exclude, pin and cap machines at once, and never end a pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pomona.leases import LeaseTable
from pomona.messages.control import Beacon, GatewayFacts, Pipeline
from pomona.messages.placement import MachineChoice, Placement
from pomona.models import EMBEDDED_MODEL
from pomona_planner.control.leadership import Leadership
from pomona_planner.control.pins import Pin
from pomona_planner.control.placement import limited_workers, newest_request, placed_spec
from pomona_planner.control.plan_control import PlanControl
from pomona_planner.control.proposal import PipelineSpec
from pomona_planner.control.state_files import PlacementFile, PlanFile
from support.beacons import beacon_of
from support.planner_beacons import FACTS, GIGA, loaded, ranges, worker

EXCLUDE_B = Placement((MachineChoice("b", "exclude"),), 1.0)


def asking(placement: Placement | None) -> Beacon:
    return replace(beacon_of("gateway", "g"), facts=GatewayFacts("http://g", placement=placement))


def test_the_newest_placement_wins_and_one_from_the_far_future_is_not_believed() -> None:
    current = replace(EXCLUDE_B, at=4.0)
    newer, newest = Placement((), 5.0), Placement((), 6.0)
    assert newest_request(current, [asking(newer), asking(newest), asking(None)]) == newest
    assert newest_request(current, [asking(EXCLUDE_B)]) is None
    assert newest_request(current, [asking(Placement((), 1e18))]) is None


def test_choices_stand_beside_the_settings() -> None:
    spec = PipelineSpec("m", excluded=frozenset({"a"}), pins=(Pin("c", 0, 4), Pin("d", 4, 8)))
    choices = (
        MachineChoice("b", "exclude"),
        MachineChoice("c", "pin", start=0, stop=6),
        MachineChoice("d", "pin", "another model", 0, 6),
        MachineChoice("e", "pin", start=6, stop=6),
        MachineChoice("f", "cap", memory_bytes=5),
    )
    placed = placed_spec(spec, "m", Placement(choices))
    assert placed.excluded == {"a", "b"}
    assert set(placed.pins) == {Pin("c", 0, 6), Pin("d", 4, 8)}
    assert placed.memory_limits == {"f": 5}
    assert placed_spec(spec, "m", Placement()) == spec


def test_a_cap_only_lowers_the_memory_of_its_machine() -> None:
    workers = [worker("a", node="n"), worker("b", memory=3 * GIGA)]
    caps = (
        MachineChoice("n", "cap", memory_bytes=GIGA),
        MachineChoice("b", "cap", memory_bytes=9 * GIGA),
    )
    limited = limited_workers(workers, Placement(caps))
    usable = [x.facts.usable_memory_bytes for x in limited]  # type: ignore[union-attr]  # workers
    assert usable == [GIGA, 3 * GIGA]


class Planning:
    """A planner of two or three workers that load at once."""

    def __init__(self, folder: Path, *names: str, stages: int = 2) -> None:
        self.leases = LeaseTable()
        self.plan = PlanControl(
            PlanFile(folder), Leadership("p", "boot", stages), "p", lambda before, after: None
        )
        self.plan.add(EMBEDDED_MODEL, PipelineSpec(EMBEDDED_MODEL, stages, settle_s=0.0), FACTS)
        self.names = names
        self.now = 10.0
        self._seq = 0

    @property
    def pipeline(self) -> Pipeline:
        return self.plan.pipeline(EMBEDDED_MODEL)

    def run(self) -> Pipeline:
        """Decides until the pipeline is active, or for five seconds."""
        for _ in range(20):
            self.now += 0.25
            self._seq += 1
            workers = {name: worker(name) for name in self.names}
            workers |= {x.name: x for x in loaded(self.pipeline) if x.name in self.names}
            for beacon in (*workers.values(), beacon_of("planner", "p", name="p")):
                self.leases.observe(replace(beacon, seq=self._seq), self.now)
            self.plan.decide(self.leases, self.now)
        return self.pipeline

    def place(self, *choices: MachineChoice) -> str:
        """Takes choices unless they are refused. Returns why they are."""
        placement = Placement(choices)
        reason = self.plan.why_not(placement, self.leases)
        if not reason:
            self.plan.place(placement)
        return reason


@pytest.fixture
def planning(tmp_path: Path) -> Planning:
    found = Planning(tmp_path, "a", "b", "c")
    assert found.run().state == "active"
    return found


def test_an_excluded_machine_is_replaced_at_once(planning: Planning) -> None:
    [gone, *_] = [stage.worker for stage in planning.pipeline.stages]
    epoch = planning.pipeline.epoch
    assert planning.place(MachineChoice(gone, "exclude")) == ""
    after = planning.run()
    assert (after.epoch, after.state) == (epoch + 1, "active")
    assert gone not in {stage.worker for stage in after.stages}


def test_a_pin_moves_layers_at_once(planning: Planning) -> None:
    first = planning.pipeline.stages[0]
    assert planning.place(MachineChoice(first.worker, "pin", start=0, stop=first.stop - 3)) == ""
    after = planning.run()
    assert ranges(after)[0] == (first.worker, 0, first.stop - 3)


def test_a_cap_forms_the_pipeline_again_with_less_cache(planning: Planning) -> None:
    before = planning.pipeline
    name = before.stages[0].worker
    assert planning.place(MachineChoice(name, "cap", memory_bytes=2 * GIGA)) == ""
    after = planning.run()
    assert after.epoch == before.epoch + 1
    assert after.cache_tokens < before.cache_tokens


def test_choices_that_would_end_a_pipeline_are_refused(planning: Planning) -> None:
    before = planning.pipeline
    used = [MachineChoice(stage.worker, "exclude") for stage in before.stages]
    assert "2 stage workers are needed" in planning.place(*used)
    assert "could not run" in planning.place(MachineChoice("a", "pin", start=0, stop=4000))
    tight = [MachineChoice(name, "cap", memory_bytes=1 << 20) for name in planning.names]
    assert "could not run" in planning.place(*tight)
    assert planning.run() == before


def test_a_choice_for_an_unused_machine_keeps_the_epoch(planning: Planning) -> None:
    before = planning.pipeline
    [spare] = set(planning.names) - {stage.worker for stage in before.stages}
    assert planning.place(MachineChoice(spare, "exclude")) == ""
    assert planning.run().epoch == before.epoch
    assert planning.place() == ""
    assert planning.run().epoch == before.epoch


def test_choices_outlive_the_planner(tmp_path: Path) -> None:
    assert PlacementFile(tmp_path).read() == Placement()
    PlacementFile(tmp_path).write(EXCLUDE_B)
    assert PlacementFile(tmp_path).read() == EXCLUDE_B
