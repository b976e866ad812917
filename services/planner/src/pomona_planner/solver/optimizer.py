"""The best plan for a purpose, or what is missing for any."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pomona_planner.cost_model import roofline
from pomona_planner.cost_model.cost_arrays import Costs
from pomona_planner.cost_model.prediction import (
    Plan,
    Prediction,
    cycle_seconds,
    lanes_and_rows,
    predict,
)
from pomona_planner.cost_model.problem import Aim, Machine, Problem
from pomona_planner.solver.infeasible import Infeasible, shortfall
from pomona_planner.solver.query import MAX_NODES, TIE, Answer, Found, SolverQuery
from pomona_planner.solver.search import MOST_LABELS, solve
from pomona_planner.solver.search_budget import SearchBudget
from pomona_planner.solver.stage_balance import evenest
from pomona_planner.solver.throughput import Cycle, required, shortest

BALANCE_SLACK = 0.02
"""Share of one user's speed that may go for a cut that serves many users better."""
DEFAULT_AIM = Aim()
LABELS_OF_A_WORD = MOST_LABELS // 16
LEAST_GAP = 1e-6
"""Share by which a better plan is not worth a word."""
LEAST_GIVEN = 5e-4
"""Share given for balance that is worth a word."""


@dataclass(frozen=True, slots=True)
class OptimizedPlan:
    """Attributes:
    machines: those that were considered; the plan's nodes are numbers of them.
    notes: what a person should know of how the choice came about.
    gap: share by which another plan may still be better at the aim than the best one that
        was found; 0 when there is a proof that none is.
    given: share of the best plan's speed for one user that this one, with the same machines
        in the same order, gives for stages that are more evenly busy.
    """

    plan: Plan
    machines: tuple[Machine, ...]
    prediction: Prediction
    notes: tuple[str, ...]
    gap: float
    given: float = 0.0

    @property
    def proven(self) -> bool:
        return self.gap == 0


def choose(problem: Problem, aim: Aim = DEFAULT_AIM) -> OptimizedPlan | Infeasible:
    """The best plan for the aim."""
    problem, notes = _within_limits(problem)
    chooser = _Chooser(problem, aim)
    found = chooser.latency() if aim.objective == "latency" else chooser.throughput()
    if found is None:
        return shortfall(problem, aim, chooser.gap == 0)
    plan = chooser.plan(found)
    prediction = predict(problem, plan)
    if chooser.gap:
        notes.append(
            "the search was ended early: "
            + (
                f"no plan can be more than {chooser.gap:.1%} better"
                if chooser.gap < 1
                else "a better plan may exist"
            )
        )
    if chooser.given >= LEAST_GIVEN:
        notes.append(
            f"{chooser.given:.1%} of one user's speed is given for stages that are more evenly busy"
        )
    notes += chooser.why_so_many(plan, prediction)
    return OptimizedPlan(
        plan, problem.machines, prediction, tuple(notes), chooser.gap, chooser.given
    )


class _Chooser:
    """Attributes: gap, given: of what was found last, see ``OptimizedPlan``."""

    def __init__(self, problem: Problem, aim: Aim) -> None:
        self.gap = self.given = 0.0
        self._problem = problem
        self._aim = aim
        self._allowed = roofline.allowed(problem)
        self._one = roofline.costs(problem, 1)
        self._required = required(problem)
        self._users = problem.demand.users
        self._positions = problem.positions()
        self._asking = SearchBudget(MOST_LABELS if aim.objective == "latency" else 2 * MOST_LABELS)

    def plan(self, found: Found) -> Plan:
        return Plan(found.nodes, tuple(self._positions[cut] for cut in found.cuts))

    def _question(self, stages: int = 0) -> SolverQuery:
        wanted = stages or self._aim.stages
        fewest, most = (wanted, wanted) if wanted else (1, MAX_NODES)
        return SolverQuery(self._one, self._allowed, fewest, most, required=self._required)

    def _cycles(self) -> list[Cycle]:
        """All plans, fewest stages first; those of at least as many stages as users together."""
        most = min(len(self._problem.machines), len(self._positions) - 1)
        fewest, most = (self._aim.stages,) * 2 if self._aim.stages else (1, most)
        apart = range(fewest, min(self._users - 1, most) + 1)
        groups = [(count, count) for count in apart]
        if most >= self._users:
            groups.append((max(fewest, self._users), most))
        return [Cycle(self._problem, self._allowed, *group, self._users) for group in groups]

    # One user ----------------------------------------------------------------------------

    def latency(self) -> Found | None:
        """The quickest for one user that reaches the floor; of equals, the best balanced."""
        answer = self._asking.ask(self._question(), MOST_LABELS)
        found = answer.found
        self.gap = _gap(found.cost if found else None, _at_least(answer))
        if found is None:
            return None
        floor_s = float("inf")
        if self._users > 1 and self._aim.floor > 0 and not self._reaches_floor_surely(found):
            quickest_gap = self.gap
            best = self.throughput()
            assert best is not None
            floor_s = self._seconds_for_all(best) / self._aim.floor
            if self._seconds_for_all(found) > floor_s:
                found = self._quickest_within(floor_s) or best
            else:
                self.gap = quickest_gap
        return self._balanced(found, floor_s)

    def _reaches_floor_surely(self, found: Found) -> bool:
        best_s = self._seconds_for_all(found) * self._aim.floor
        return not any(cycle.may_be_within(best_s) for cycle in self._cycles())

    def _quickest_within(self, cycle_s: float) -> Found | None:
        best: Found | None = None
        least = float("inf")
        for cycle in self._cycles():
            question = replace(
                cycle.question(self._one, cycle_s),
                below=best.cost if best is not None else float("inf"),
                second=cycle.costs,
                second_limit=cycle_s,
            )
            answer = self._asking.ask(question, MOST_LABELS)
            least = min(least, _at_least(answer))
            best = answer.found or best
        self.gap = _gap(best.cost if best else None, least)
        return best

    def _balanced(self, found: Found, floor_s: float) -> Found:
        """Of plans with these stages in this order, nearly as quick, the best for all users."""
        count = len(found.nodes)
        _, rows = lanes_and_rows(max(self._users, count), count)
        better = self._recut(found, self._one, rows, found.cost * (1 + BALANCE_SLACK))
        least = max(floor_s, self._seconds_for_all(found)) * (1 + TIE)
        if self._seconds_for_all(better) > least:
            return found
        given = 1 - found.cost / better.cost
        self.given = given if given > LEAST_GAP else 0.0
        return better

    def _recut(self, found: Found, costs: Costs, rows: int, limit: float) -> Found:
        """The most even stages of the same nodes in the same order.

        Args:
            rows: sequences in the steps for which stages are evenly busy.
            limit: of the plan's cost.
        """
        nodes = list(found.nodes)
        cost = np.where(self._allowed, costs.stage, np.inf)[nodes]
        busy = roofline.costs(self._problem, rows).stage[nodes]
        cuts = evenest(cost, busy, limit - costs.links_of(nodes))
        return Found(found.nodes, cuts, costs.of(nodes, list(cuts)))

    # All users ---------------------------------------------------------------------------

    def throughput(self) -> Found | None:
        """The most tokens for all promised users together; of equals, the fewest stages."""
        if self._users == 1:
            answer = self._asking.ask(self._question(), MOST_LABELS)
            self.gap = _gap(answer.found.cost if answer.found else None, _at_least(answer))
            return answer.found and self._evened(answer.found)
        best = shortest(self._cycles(), self._asking)
        self.gap = _gap(best.cycle_s if best.found else None, best.least_s)
        return best.found and self._evened(best.found)

    def _evened(self, found: Found) -> Found:
        """Of plans with these stages in this order, as good for all users, the most even."""
        _, rows = lanes_and_rows(self._users, len(found.nodes))
        costs = roofline.costs(self._problem, rows)
        within = self._seconds_for_all(found) * (1 + TIE)
        even = self._recut(found, costs, rows, within)
        return even if self._seconds_for_all(even) <= within else found

    def _seconds_for_all(self, found: Found) -> float:
        return cycle_seconds(self._problem, self.plan(found), self._users)

    # Words -------------------------------------------------------------------------------

    def why_so_many(self, plan: Plan, prediction: Prediction) -> list[str]:
        """Why one machine, or why several, when both would do."""
        if self._aim.stages or len(self._problem.machines) == 1:
            return []
        used, speed = len(plan.nodes), prediction.tokens_per_second
        if used == 1:
            other = solve(self._question(2), LABELS_OF_A_WORD).found
            name = self._problem.machines[plan.nodes[0]].name
            if other is None:
                return [f"{name} holds the model alone"]
            said = f"{name} alone is faster for one user than any two: "
            if speed < 1 / other.cost:
                said = f"{name} alone was chosen: "
            return [said + f"{speed:.1f} tok/s, not {1 / other.cost:.1f}"]
        alone = None if self._required else solve(self._question(1), LABELS_OF_A_WORD).found
        if alone is None:
            return []
        name = self._problem.machines[alone.nodes[0]].name
        return [
            f"{name} could hold the model alone, with {1 / alone.cost:.1f} tok/s for one user; "
            f"{used} machines give {speed:.1f}, and {prediction.users_tokens_per_second:.1f} "
            f"for {prediction.users}"
        ]


def _at_least(answer: Answer) -> float:
    """No plan below the question's limit costs less; infinite when there is none but the one
    found, which is then the best."""
    return float("inf") if answer.proven else answer.bound


def _gap(found: float | None, least: float) -> float:
    """Share by which something better than what was found may exist.

    Args:
        found: None when nothing was.
        least: a bound for all that was not looked at.
    """
    if least == float("inf"):
        return 0.0
    if found is None or least <= 0:
        return float("inf")
    gap = found / least - 1
    return gap if gap > LEAST_GAP else 0.0


def _within_limits(problem: Problem) -> tuple[Problem, list[str]]:
    """Keep as many machines as can be planned for, those that hold and do most."""
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
