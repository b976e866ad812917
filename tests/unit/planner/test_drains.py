"""A drained node is planned without; a drain that the others cannot bear is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pomona.messages.control import Beacon, DrainRequest, NodeDrain
from pomona.messages.discovery import Hardware
from pomona.messages.limits import MAX_NODES
from pomona.models import EMBEDDED_MODEL
from pomona_planner.control.drains import (
    DrainForecast,
    Drains,
    adopt_drains,
    apply_drain_requests,
    end_returned,
    in_force,
    with_progress,
)
from pomona_planner.control.pipeline_controller import PipelineController
from pomona_planner.control.proposal import PipelineSpec
from pomona_planner.control.state_files import DrainsFile
from support.beacons import beacon_of
from support.planner_beacons import FACTS, GIGA, controller, form, loaded, ranges, worker

SMALL = int(0.7 * GIGA)
"""Memory that holds half of the model's weights in full precision."""


def requested(drains: Drains, *requests: DrainRequest, refusal: str = "") -> Drains:
    return apply_drain_requests(
        drains, requests, [worker("a"), worker("b")], lambda _: DrainForecast(refusal, 2.0)
    )


def state_of(drains: Drains, node: str) -> str:
    return drains[node].state


def test_the_newest_request_wins_and_a_repeated_one_changes_nothing() -> None:
    drains = requested({}, DrainRequest("a", True, at=1))
    assert (state_of(drains, "a"), drains["a"].boot) == ("draining", "boot1")
    assert requested(drains, DrainRequest("a", True, at=1)) is drains
    ended = requested(drains, DrainRequest("a", False, at=2), DrainRequest("a", True, at=1))
    assert state_of(ended, "a") == "ended"
    assert not in_force(ended)
    assert requested(ended, DrainRequest("a", True, at=2.0**40)) is ended


def test_what_the_others_cannot_hold_is_refused_unless_it_is_forced() -> None:
    refused = requested({}, DrainRequest("a", True, at=1), refusal="too little memory")
    assert (state_of(refused, "a"), refused["a"].reason) == ("refused", "too little memory")
    forced = requested(refused, DrainRequest("a", True, force=True, at=2), refusal="too little")
    assert in_force(forced) == {"a"}
    assert forced["a"].pause_s == 2.0


def test_decisions_that_are_over_make_room_and_drains_in_force_do_not() -> None:
    full = {f"n{x}": NodeDrain(f"n{x}", "ended", at=x) for x in range(MAX_NODES)}
    more = requested(full, DrainRequest("a", True, at=999))
    assert "n0" not in more
    assert len(more) == MAX_NODES
    taken = {name: replace(x, state="drained") for name, x in full.items()}
    assert requested(taken, DrainRequest("a", True, at=999)) is taken


def test_a_drain_until_back_ends_when_the_node_has_another_boot_and_is_ready() -> None:
    drains = requested({}, DrainRequest("a", True, until_back=True, at=1))
    assert end_returned(drains, [worker("a")]) is drains
    assert end_returned(drains, []) is drains
    starting = replace(worker("a", port=2), state="starting")
    assert end_returned(drains, [starting]) is drains
    back = end_returned(drains, [worker("a", port=2)])
    assert (state_of(back, "a"), back["a"].at) == ("ended", 2)
    for_good = requested({}, DrainRequest("a", True, at=1))
    assert end_returned(for_good, [worker("a", port=2)]) is for_good


def test_a_node_that_is_back_is_compared_with_the_others_system() -> None:
    def machine(node: str, version: str, boot: str) -> Beacon:
        hardware = Hardware("M4", 8, 1, 1, "macOS", version)
        found = beacon_of("discovery", node, facts={"hardware": hardware})
        return replace(found, boot=boot)

    beacons = [machine("a", "26.2", "x"), machine("b", "26.2", "x"), worker("a.w", node="a")]
    drains = apply_drain_requests(
        {}, [DrainRequest("a", True, until_back=True, at=1)], beacons, lambda _: DrainForecast()
    )
    beacons[0] = machine("a", "26.3", "y")
    back = end_returned(drains, beacons)
    assert back["a"].reason == "it is back with macOS 26.3 (others: macOS 26.2)"


def test_a_node_is_drained_once_it_holds_nothing_and_nothing_loads() -> None:
    planner = free_controller()
    drains = requested({}, DrainRequest("b", True, at=1))
    pipeline = planner.decide([worker("a"), worker("b")], 7, 0.0)
    both = replace(pipeline, stages=(replace(pipeline.stages[0], worker="b", node="b"),))
    assert with_progress(drains, [both], [worker("a"), worker("b")]) is drains
    held = loaded(both)
    assert with_progress(drains, [pipeline], held) is drains
    assert with_progress(drains, [replace(pipeline, state="forming")], [worker("b")]) is drains
    active = replace(pipeline, state="active")
    done = with_progress(drains, [active], [worker("a"), worker("b")])
    assert state_of(done, "b") == "drained"
    assert with_progress(done, [replace(active, state="forming")], [worker("b")]) is done


def test_a_planner_that_waits_takes_the_leaders_newer_decisions() -> None:
    own = {"a": NodeDrain("a", "drained", at=3)}
    assert adopt_drains(own, [NodeDrain("a", "ended", at=2)]) is own
    taken = adopt_drains(own, [NodeDrain("a", "ended", at=4), NodeDrain("b", "draining", at=1)])
    assert in_force(taken) == {"b"}


def test_drains_outlive_the_planner(tmp_path: Path) -> None:
    file = DrainsFile(tmp_path)
    assert file.read() == {}
    drains = requested({}, DrainRequest("a", True, until_back=True, at=1))
    file.write(drains)
    assert DrainsFile(tmp_path).read() == drains


# Plans ---------------------------------------------------------------------------------


def free_controller(**fields: object) -> PipelineController:
    spec = PipelineSpec(EMBEDDED_MODEL, 0, settle_s=0.0, **fields)  # type: ignore[arg-type]
    return PipelineController(spec, FACTS, None)


def test_a_drained_node_is_planned_without_at_once_and_with_fewer_stages_than_are_set() -> None:
    planner = controller()
    pipeline = form(planner)
    planner.decide(loaded(pipeline), 8, 1.0)
    without = planner.decide(loaded(pipeline), 8, 2.0, drained={"b"})
    assert (without.epoch, without.reason) == (8, "b is drained")
    assert ranges(without) == [("a", 0, 30)]
    [alone] = loaded(without)
    active = planner.decide([alone, worker("b")], 9, 3.0, drained={"b"})
    assert (active.epoch, active.state, active.proposal) == (8, "active", "")
    away = planner.decide([alone], 9, 60.0, drained={"b"})
    assert (away.epoch, away.state) == (8, "active")
    back = planner.decide([alone, worker("b")], 9, 61.0)
    assert back.epoch == 9
    assert [stage.worker for stage in back.stages] == ["a", "b"]


def test_a_drain_of_a_node_without_layers_changes_nothing() -> None:
    planner = free_controller()
    pipeline = planner.decide([worker("a"), worker("b")], 7, 0.0)
    [holder] = [stage.worker for stage in pipeline.stages]
    other = "b" if holder == "a" else "a"
    beacons = [*loaded(pipeline), worker(other)]
    assert planner.forecast(beacons, {other})[0] == DrainForecast()
    planner.decide(beacons, 8, 1.0)
    assert planner.decide(beacons, 8, 2.0, drained={other}).epoch == 7


@pytest.mark.parametrize("memory", [SMALL, 20 * GIGA])
def test_the_forecast_refuses_what_the_others_cannot_hold(memory: int) -> None:
    planner = free_controller(required=frozenset({"a", "b"}))
    present = [worker("a", memory=memory), worker("b", memory=memory)]
    pipeline = planner.decide(present, 7, 0.0)
    assert len(pipeline.stages) == 2
    forecast, after = planner.forecast(present, {"b"})
    assert forecast.pause_s > 1.0
    assert bool(forecast.refusal) == (memory == SMALL)
    assert [stage.worker for stage in after.stages] == (["a", "b"] if memory == SMALL else ["a"])


def test_a_forced_drain_says_why_nothing_is_served_and_its_end_forms_the_same_cuts() -> None:
    planner = free_controller()
    present = [worker("a", memory=SMALL), worker("b", memory=SMALL)]
    before = planner.decide(present, 7, 0.0)
    forced = planner.decide(present, 8, 2.0, drained={"b"})
    assert forced.state == "impossible"
    assert forced.reason.startswith("without b: ")
    back = planner.decide(present, 9, 4.0)
    assert ranges(back) == ranges(before)
