"""Predictions agree with their own limits."""

from __future__ import annotations

import pytest

from pomona_planner.cost_model.problem import Aim
from pomona_planner.solver.optimizer import OptimizedPlan, choose
from support.planner_instances import problem_from_beacons


@pytest.mark.parametrize("factor", [0.2, 0.6, 1.0, 1.7])
@pytest.mark.parametrize("tail", [None, 0.3, 2.0])
def test_a_prediction_never_exceeds_its_ceiling(factor: float, tail: float | None) -> None:
    problem = problem_from_beacons(9e9, 9e9, factors=(factor, factor), tail=tail)
    found = choose(problem, Aim(stages=2))
    assert isinstance(found, OptimizedPlan)
    prediction = found.prediction
    assert prediction.tokens_per_second <= prediction.ceiling_tokens_per_second
