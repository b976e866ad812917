"""Search for the shortest cycle: the time in which all users get a token.

The cycle is the time round the pipeline, or the busiest stage or link once for each lane,
whichever is longer. A binary search over the cycle time asks the search for one user whether any
plan is within it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array, Costs, link_occupancy, step_costs
from pomona_planner.cost_model.prediction import lanes_and_rows
from pomona_planner.cost_model.problem import Problem
from pomona_planner.solver.lower_bound import bound_all_plans
from pomona_planner.solver.query import TIE, Solution, SolverQuery, SolverResult
from pomona_planner.solver.search import BEAM, MAX_LABELS, solve

CLOSE_ENOUGH = 5e-3
"""Relative width of the interval at which the binary search ends and the proof begins."""
LABELS_PER_STEP = MAX_LABELS // 32
FIRST_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Shares above the lower bound at which plans are sought first."""
LABELS_PER_CALL = 50_000
"""Fixed cost of a search, in labels that could be generated in the same time."""
NARROW_BEAM = 32
"""Beam of searches that stop at the first plan."""


class SearchBudget:
    """Number of labels that several searches share, so that a plan is found in about a second."""

    def __init__(self, labels: int) -> None:
        self._left = labels

    @property
    def is_spent(self) -> bool:
        return self._left <= 0

    def solve(self, query: SolverQuery, max_labels: int) -> SolverResult:
        """Solves a query with at most ``max_labels`` labels, within the rest of the budget."""
        max_labels = max(min(max_labels, self._left), 0)
        result = solve(query, max_labels, NARROW_BEAM if query.stop_at_first else BEAM)
        self._left -= result.labels + LABELS_PER_CALL
        return result


class CycleModel:
    """Cycle times of the plans with ``min_stages`` to ``max_stages`` stages.

    All of these plans must have the same number of lanes.
    """

    def __init__(
        self, problem: Problem, allowed: Array, min_stages: int, max_stages: int, users: int
    ) -> None:
        """Args: allowed: (N, P, P) whether a node may hold a stage."""
        self._allowed = allowed
        self._min_stages, self._max_stages = min_stages, max_stages
        self._lanes, rows = lanes_and_rows(users, min_stages)
        self._required = problem.required_nodes()
        self.costs = step_costs(problem, rows)
        self._occupancy = link_occupancy(problem, rows)

    def cycle_seconds(self, solution: Solution) -> float:
        ranges = zip(solution.nodes, solution.cuts[:-1], solution.cuts[1:], strict=True)
        longest = max(float(self.costs.stage[n, a, b]) for n, a, b in ranges)
        for a, b in pairwise(solution.nodes):
            longest = max(longest, float(self._occupancy[a, b]))
        round_trip = self.costs.plan_cost(list(solution.nodes), list(solution.cuts))
        return max(round_trip, self._lanes * longest)

    def query(self, costs: Costs, cycle_s: float) -> SolverQuery:
        """Returns the query for plans whose stages and links allow a cycle of ``cycle_s``.

        No stage and no link is busy for longer than a lane's share of the cycle.
        """
        longest = cycle_s / self._lanes * (1 + TIE)
        usable = self._occupancy <= longest
        if not usable.all():
            costs = replace(costs, link=np.where(usable, costs.link, np.inf))
        return SolverQuery(
            costs,
            self._allowed & (self.costs.stage <= longest),
            self._min_stages,
            self._max_stages,
            required=self._required,
        )

    def query_below(self, cycle_s: float) -> SolverQuery:
        """Returns the query for plans with a cycle below ``cycle_s``, up to rounding."""
        return replace(self.query(self.costs, cycle_s), cost_limit=cycle_s)

    def may_be_below(self, cycle_s: float) -> bool:
        """Returns False when the lower bound shows that no plan's cycle is below ``cycle_s``."""
        return bound_all_plans(self.query_below(cycle_s)) < cycle_s * (1 - TIE)


@dataclass(frozen=True, slots=True)
class ShortestCycle:
    """Result of the search for the shortest cycle.

    Attributes:
        solution: None when there is no plan, or none was found.
        cycle_s: cycle of the solution; infinite without one.
        bound_s: lower bound on the cycles of all other plans; at least ``cycle_s`` when the
            solution is proven to be the best.
    """

    solution: Solution | None
    cycle_s: float
    bound_s: float


def find_shortest_cycle(models: Sequence[CycleModel], budget: SearchBudget) -> ShortestCycle:
    """Finds the plan with the shortest cycle; of equal ones, that of the first model.

    After the binary search it looks for the fastest round trip among plans with a shorter cycle
    than the best one, until a search proves that there is no other.
    """
    return _CycleSearch(models, budget).run()


class _CycleSearch:
    """Interval of the shortest cycle: a lower bound for each model, and the best plan's cycle."""

    def __init__(self, models: Sequence[CycleModel], budget: SearchBudget) -> None:
        self._budget = budget
        self._bounds = {model: bound_all_plans(model.query_below(inf)) for model in models}
        self._best: Solution | None = None
        self._best_model: CycleModel | None = None
        self._best_s = inf

    def run(self) -> ShortestCycle:
        self._find_first()
        for model in self._open_models():
            if self._bounds[model] < self._best_s:
                self._bisect(model)
        while self._prove() and not self._budget.is_spent:
            pass
        bound_s = min(self._bounds.values(), default=inf)
        return ShortestCycle(self._best, self._best_s, bound_s)

    def _open_models(self) -> list[CycleModel]:
        """Returns the models that may have a better plan."""
        return [m for m, bound in self._bounds.items() if bound < self._best_s * (1 - 4 * TIE)]

    def _find_first(self) -> None:
        """Raises the cycle time from the lower bound until a plan is found.

        Tight queries come first because they are answered sooner.
        """
        lowest = min(self._bounds.values(), default=inf)
        for share in FIRST_SHARES:
            for model in self._open_models():
                cycle_s = lowest * (1 + share)
                if self._budget.is_spent:
                    return
                if self._bounds[model] < cycle_s and self._improve(model, cycle_s, True):
                    return

    def _bisect(self, model: CycleModel) -> None:
        """Narrows the interval of a model to ``CLOSE_ENOUGH``, if it can improve on the best."""
        low = self._bounds[model]
        if self._best_model is not model and not self._improve(
            model, self._best_s * (1 - 2 * TIE), True
        ):
            return
        while self._best_s > low * (1 + CLOSE_ENOUGH) and not self._budget.is_spent:
            middle = (low + self._best_s) / 2
            if not self._improve(model, middle, True):
                low = middle

    def _prove(self) -> bool:
        """Searches all open models completely. Returns whether a better plan was found."""
        known_s = self._best_s
        for model in self._open_models():
            while self._bounds[model] < self._best_s * (1 - 4 * TIE):
                if not self._improve(model, self._best_s * (1 - 2 * TIE), False):
                    break
        return self._best_s < known_s

    def _improve(self, model: CycleModel, cycle_s: float, stop_at_first: bool) -> bool:
        """Searches for a plan below ``cycle_s``. Returns whether it found one."""
        max_labels = LABELS_PER_STEP if stop_at_first else MAX_LABELS
        query = replace(model.query_below(cycle_s), stop_at_first=stop_at_first)
        result = self._budget.solve(query, max_labels)
        if result.solution is None:
            self._bounds[model] = max(self._bounds[model], min(result.bound, cycle_s))
            return False
        if result.proven and not stop_at_first:
            self._bounds[model] = max(self._bounds[model], result.solution.cost)
        self._best, self._best_model = result.solution, model
        self._best_s = model.cycle_seconds(result.solution)
        return True
