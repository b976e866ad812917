"""Choice of the best plan for an aim."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pomona.messages.control import Prediction
from pomona_planner.cost_model.cost_arrays import Costs, step_costs
from pomona_planner.cost_model.memory import allowed_stages
from pomona_planner.cost_model.prediction import Plan, cycle_seconds, lanes_and_rows, predict
from pomona_planner.cost_model.problem import Aim, Machine, Problem
from pomona_planner.solver.infeasible import Infeasible, explain_infeasible
from pomona_planner.solver.query import MAX_NODES, TIE, Solution, SolverQuery, SolverResult
from pomona_planner.solver.search import MAX_LABELS, solve
from pomona_planner.solver.stage_balance import most_even_cuts
from pomona_planner.solver.throughput import CycleModel, SearchBudget, find_shortest_cycle

BALANCE_SLACK = 0.02
"""Share of one user's speed that the optimizer may give up for better balanced stages."""
DEFAULT_AIM = Aim()
LABELS_PER_NOTE = MAX_LABELS // 16
"""Labels generated to compare one machine with several in a note."""
MIN_GAP = 1e-6
"""Relative difference below which a better plan does not matter."""
MIN_BALANCE_COST = 5e-4
"""Share of one user's speed below which the balance cost is not noted."""


@dataclass(frozen=True, slots=True)
class OptimizedPlan:
    """The best plan that was found.

    Attributes:
        machines: the machines considered; the plan's nodes are indices into them.
        prediction: of the plan, with the optimizer's notes for people.
        gap: maximum share by which another plan may be better at the aim than the best one
            found; 0 when the best one is proven.
        balance_cost: share of one user's speed that was given up for better balanced stages on
            the same machines in the same order.
    """

    plan: Plan
    machines: tuple[Machine, ...]
    prediction: Prediction
    gap: float
    balance_cost: float = 0.0

    @property
    def proven(self) -> bool:
        return self.gap == 0


def choose(problem: Problem, aim: Aim = DEFAULT_AIM) -> OptimizedPlan | Infeasible:
    """Chooses the best plan for an aim, or explains why there is none."""
    problem, notes = _limit_machines(problem)
    optimizer = _Optimizer(problem, aim)
    if aim.objective == "latency":
        solution = optimizer.minimize_latency()
    else:
        solution = optimizer.maximize_throughput()
    gap, balance_cost = optimizer.gap, optimizer.balance_cost
    if solution is None:
        return explain_infeasible(problem, aim, proven=gap == 0)
    plan = optimizer.plan(solution)
    prediction = predict(problem, plan)
    if gap:
        limit = f"no plan can be more than {gap:.1%} better"
        notes.append(f"the search stopped early: {limit if gap < 1 else 'a better plan may exist'}")
    if balance_cost >= MIN_BALANCE_COST:
        notes.append(
            f"{balance_cost:.1%} of one user's speed is given up for better balanced stages"
        )
    notes += optimizer.explain_machine_count(plan, prediction)
    prediction = replace(prediction, notes=tuple(notes))
    return OptimizedPlan(plan, problem.machines, prediction, gap, balance_cost)


class _Optimizer:
    """Search for the best plan of one problem within one budget.

    Attributes:
        gap, balance_cost: of the last solution; see ``OptimizedPlan``.
    """

    def __init__(self, problem: Problem, aim: Aim) -> None:
        self.gap = self.balance_cost = 0.0
        self._problem = problem
        self._aim = aim
        self._allowed = allowed_stages(problem)
        self._costs = step_costs(problem, 1)
        self._required = problem.required_nodes()
        self._users = problem.demand.users
        self._positions = problem.positions()
        self._budget = SearchBudget(MAX_LABELS if aim.objective == "latency" else 2 * MAX_LABELS)

    def plan(self, solution: Solution) -> Plan:
        return Plan(solution.nodes, tuple(self._positions[cut] for cut in solution.cuts))

    def _query(self, stages: int = 0) -> SolverQuery:
        exact = stages or self._aim.stages
        limits = (exact, exact) if exact else (1, MAX_NODES)
        return SolverQuery(self._costs, self._allowed, *limits, required=self._required)

    def _solve_for_one_user(self) -> Solution | None:
        result = self._budget.solve(self._query(), MAX_LABELS)
        self.gap = _gap(result.solution.cost if result.solution else None, _remaining_bound(result))
        return result.solution

    def _cycle_models(self) -> list[CycleModel]:
        """Returns models of all plans, fewest stages first.

        Plans with no fewer stages than users all have one lane per user and share a model.
        """
        limit = min(len(self._problem.machines), len(self._positions) - 1)
        exact = self._aim.stages
        min_stages, max_stages = (exact, exact) if exact else (1, limit)
        groups = [(n, n) for n in range(min_stages, min(self._users - 1, max_stages) + 1)]
        if max_stages >= self._users:
            groups.append((max(min_stages, self._users), max_stages))
        return [CycleModel(self._problem, self._allowed, *group, self._users) for group in groups]

    # One user ----------------------------------------------------------------------------

    def minimize_latency(self) -> Solution | None:
        """Finds the fastest plan for one user above the throughput floor, and balances it."""
        solution = self._solve_for_one_user()
        if solution is None:
            return None
        cycle_limit_s = float("inf")
        if self._users > 1 and self._aim.floor > 0 and not self._surely_reaches_floor(solution):
            latency_gap = self.gap
            best = self.maximize_throughput()
            assert best is not None
            cycle_limit_s = self._cycle_seconds(best) / self._aim.floor
            if self._cycle_seconds(solution) > cycle_limit_s:
                solution = self._fastest_within(cycle_limit_s) or best
            else:
                self.gap = latency_gap
        return self._balanced(solution, cycle_limit_s)

    def _surely_reaches_floor(self, solution: Solution) -> bool:
        best_s = self._cycle_seconds(solution) * self._aim.floor
        return not any(model.may_be_below(best_s) for model in self._cycle_models())

    def _fastest_within(self, cycle_s: float) -> Solution | None:
        """Finds the fastest plan for one user whose cycle is at most ``cycle_s``."""
        best: Solution | None = None
        bound = float("inf")
        for model in self._cycle_models():
            query = replace(
                model.query(self._costs, cycle_s),
                cost_limit=best.cost if best is not None else float("inf"),
                second_costs=model.costs,
                second_limit=cycle_s,
            )
            result = self._budget.solve(query, MAX_LABELS)
            bound = min(bound, _remaining_bound(result))
            best = result.solution or best
        self.gap = _gap(best.cost if best else None, bound)
        return best

    def _balanced(self, solution: Solution, cycle_limit_s: float) -> Solution:
        """Cuts a plan again for all users, within ``BALANCE_SLACK`` of one user's speed."""
        stages = len(solution.nodes)
        _, rows = lanes_and_rows(max(self._users, stages), stages)
        even = self._with_even_cuts(
            solution, self._costs, rows, solution.cost * (1 + BALANCE_SLACK)
        )
        limit_s = max(cycle_limit_s, self._cycle_seconds(solution)) * (1 + TIE)
        if self._cycle_seconds(even) > limit_s:
            return solution
        balance_cost = 1 - solution.cost / even.cost
        self.balance_cost = balance_cost if balance_cost > MIN_GAP else 0.0
        return even

    def _with_even_cuts(
        self, solution: Solution, costs: Costs, rows: int, cost_limit: float
    ) -> Solution:
        """Returns the most even cuts of the same nodes in the same order.

        Args:
            rows: sequences in the steps for which stages are evened.
            cost_limit: maximum cost of the plan in ``costs``.
        """
        nodes = list(solution.nodes)
        cost = np.where(self._allowed, costs.stage, np.inf)[nodes]
        busy = step_costs(self._problem, rows).stage[nodes]
        cuts = most_even_cuts(cost, busy, cost_limit - costs.link_cost(nodes))
        return Solution(solution.nodes, cuts, costs.plan_cost(nodes, list(cuts)))

    # All users ---------------------------------------------------------------------------

    def maximize_throughput(self) -> Solution | None:
        """Finds the most tokens per second for all users; of equal plans, the fewest stages."""
        if self._users == 1:
            solution = self._solve_for_one_user()
        else:
            best = find_shortest_cycle(self._cycle_models(), self._budget)
            solution = best.solution
            self.gap = _gap(best.cycle_s if solution else None, best.bound_s)
        return solution and self._evened(solution)

    def _evened(self, solution: Solution) -> Solution:
        """Returns the most even cuts of the same nodes that keep the cycle time."""
        _, rows = lanes_and_rows(self._users, len(solution.nodes))
        costs = step_costs(self._problem, rows)
        limit_s = self._cycle_seconds(solution) * (1 + TIE)
        even = self._with_even_cuts(solution, costs, rows, limit_s)
        return even if self._cycle_seconds(even) <= limit_s else solution

    def _cycle_seconds(self, solution: Solution) -> float:
        return cycle_seconds(self._problem, self.plan(solution), self._users)

    # Notes -------------------------------------------------------------------------------

    def explain_machine_count(self, plan: Plan, prediction: Prediction) -> list[str]:
        """Explains why one machine was chosen, or why several, when both are possible."""
        if self._aim.stages or len(self._problem.machines) == 1:
            return []
        used, speed = len(plan.nodes), prediction.tokens_per_second
        if used == 1:
            other = solve(self._query(2), LABELS_PER_NOTE).solution
            name = self._problem.machines[plan.nodes[0]].name
            if other is None:
                return [f"{name} holds the model alone"]
            comparison = f"{speed:.1f} tok/s, not {1 / other.cost:.1f}"
            if speed < 1 / other.cost:
                return [f"{name} alone was chosen: {comparison}"]
            return [f"{name} alone is faster for one user than any two: {comparison}"]
        alone = None if self._required else solve(self._query(1), LABELS_PER_NOTE).solution
        if alone is None:
            return []
        name = self._problem.machines[alone.nodes[0]].name
        return [
            f"{name} could hold the model alone, with {1 / alone.cost:.1f} tok/s for one user; "
            f"{used} machines give {speed:.1f}, and {prediction.users_tokens_per_second:.1f} "
            f"for {prediction.users}"
        ]


def _remaining_bound(result: SolverResult) -> float:
    """Returns the lower bound on all plans but the solution; infinite when that is the best."""
    return float("inf") if result.proven else result.bound


def _gap(found: float | None, bound: float) -> float:
    """Computes the maximum share by which a better plan may exist.

    Args:
        found: cost of the best plan found; None without one.
        bound: lower bound on the cost of all plans that were not examined.
    """
    if bound == float("inf"):
        return 0.0
    if found is None or bound <= 0:
        return float("inf")
    gap = found / bound - 1
    return gap if gap > MIN_GAP else 0.0


def _limit_machines(problem: Problem) -> tuple[Problem, list[str]]:
    """Keeps the ``MAX_NODES`` largest and fastest machines, and notes it."""
    if len(problem.machines) <= MAX_NODES:
        return problem, []
    order = sorted(
        problem.machines,
        key=lambda m: (m.name not in problem.required, -m.bandwidth * m.memory_bytes, m.name),
    )
    kept = set(order[:MAX_NODES])
    machines = tuple(machine for machine in problem.machines if machine in kept)
    return replace(problem, machines=machines), [
        f"only {MAX_NODES} of {len(problem.machines)} machines were considered"
    ]
