"""The planner counts the workspace that workers measured."""

from __future__ import annotations

from dataclasses import replace

from pomona.messages.control import StageStatus, StageWorkerFacts
from pomona_planner.cluster.from_beacons import machines
from pomona_planner.cost_model.calibration import Calibration
from pomona_planner.cost_model.memory import WORKSPACE_BYTES, usable_bytes
from support.planner_beacons import GIGA, worker


def facts(workspace: int) -> StageWorkerFacts:
    status = StageStatus("m", 1, 0, 4, "ready", workspace_bytes=workspace)
    found = worker("a", status).facts
    assert isinstance(found, StageWorkerFacts)
    return found


def test_a_measured_workspace_takes_what_exceeds_the_assumed_one() -> None:
    assert usable_bytes(facts(0)) == usable_bytes(facts(WORKSPACE_BYTES)) == 20 * GIGA
    assert usable_bytes(facts(WORKSPACE_BYTES + 3 * GIGA)) == 17 * GIGA
    assert usable_bytes(facts(100 * GIGA)) == 0


def test_a_plan_has_less_memory_where_more_workspace_was_measured() -> None:
    beacon = replace(worker("a"), facts=facts(WORKSPACE_BYTES + 5 * GIGA))
    (machine,) = machines([beacon], [], Calibration())
    assert machine.memory_bytes == 15 * GIGA
