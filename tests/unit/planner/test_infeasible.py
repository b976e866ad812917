"""An infeasible problem is explained, with changes that help."""

from __future__ import annotations

from pomona_planner.cost_model.problem import Demand, Machine, Problem
from pomona_planner.solver.infeasible import Infeasible
from pomona_planner.solver.optimizer import OptimizedPlan, choose
from support.planner_instances import MEGA, small_model


def test_missing_memory_and_remedies_are_named() -> None:
    machines = (Machine("a", 700 * MEGA, 100e9, 1e12), Machine("b", 700 * MEGA, 100e9, 1e12))
    found = choose(Problem(small_model([100] * 6), machines, demand=Demand(context=1024)))
    assert isinstance(found, Infeasible)
    assert found.missing_bytes > 0
    assert any("add" in remedy for remedy in found.remedies)
    added = (*machines, *(Machine(x, 700 * MEGA, 100e9, 1e12) for x in "cd"))
    assert isinstance(choose(Problem(small_model([100] * 6), added)), OptimizedPlan)
