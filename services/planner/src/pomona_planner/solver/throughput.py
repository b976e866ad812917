"""Plans by the time in which all users get a token.

That is the way round the pipeline, or the busiest stage or link once for every lane,
whichever is longer. How long the busiest may be is halved until the shortest cycle is found,
each time by the search for one user's time: is there any plan within it?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

import numpy as np

from pomona_planner.cost_model import roofline
from pomona_planner.cost_model.cost_arrays import Array, Costs
from pomona_planner.cost_model.prediction import lanes_and_rows
from pomona_planner.cost_model.problem import Problem
from pomona_planner.solver.lower_bound import least_of_all
from pomona_planner.solver.query import TIE, Found, SolverQuery
from pomona_planner.solver.search import MOST_LABELS
from pomona_planner.solver.search_budget import SearchBudget

CLOSE_ENOUGH = 5e-3
"""Share of the cycle below which halving gives way to one last proof."""
LABELS_OF_A_STEP = MOST_LABELS // 32
FIRST_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Above the least time for the way round, where plans are looked for first."""


class Cycle:
    """Of plans with ``fewest`` to ``most`` stages, in all of which as many lanes travel."""

    def __init__(
        self, problem: Problem, allowed: Array, fewest: int, most: int, users: int
    ) -> None:
        """Args: allowed: (N, P, P) whether a node may hold a stage."""
        self._allowed = allowed
        self._fewest, self._most = fewest, most
        self._lanes, rows = lanes_and_rows(users, fewest)
        self._required = required(problem)
        self.costs = roofline.costs(problem, rows)
        self._busy = roofline.occupancy(problem, rows)

    def of(self, found: Found) -> float:
        """Seconds."""
        ranges = zip(found.nodes, found.cuts[:-1], found.cuts[1:], strict=True)
        longest = max(float(self.costs.stage[n, a, b]) for n, a, b in ranges)
        for a, b in pairwise(found.nodes):
            longest = max(longest, float(self._busy[a, b]))
        whole = self.costs.of(list(found.nodes), list(found.cuts))
        return max(whole, self._lanes * longest)

    def question(self, costs: Costs, cycle_s: float) -> SolverQuery:
        """Plans in which no stage and no link is busy for longer than a lane's share."""
        longest = cycle_s / self._lanes * (1 + TIE)
        usable = self._busy <= longest
        if not usable.all():
            costs = replace(costs, link=np.where(usable, costs.link, np.inf))
        return SolverQuery(
            costs,
            self._allowed & (self.costs.stage <= longest),
            self._fewest,
            self._most,
            required=self._required,
        )

    def may_be_within(self, cycle_s: float) -> bool:
        """False when no plan's cycle is shorter."""
        return least_of_all(self.within(cycle_s)) < cycle_s * (1 - TIE)

    def within(self, cycle_s: float) -> SolverQuery:
        """Plans whose cycle is shorter than that, and maybe others as quick on the way round."""
        return replace(self.question(self.costs, cycle_s), below=cycle_s)


@dataclass(frozen=True, slots=True)
class Shortest:
    """Attributes:
    found: None when there is no plan, or none was found.
    cycle_s: of the plan, infinite without one.
    least_s: no other plan's cycle is shorter; at least ``cycle_s`` when the proof is whole.
    """

    found: Found | None
    cycle_s: float
    least_s: float


def shortest(cycles: Sequence[Cycle], asking: SearchBudget) -> Shortest:
    """The plan of the shortest cycle. Of equal ones, that of the first of ``cycles``.

    Halving: is there any plan whose cycle is at most t? At the end, the quickest way round
    of those whose cycle is shorter than the best one's, and a proof that there is no other.
    """
    return _Halving(cycles, asking).shortest()


class _Halving:
    """Between a time that no cycle is below, and that of the best plan known."""

    def __init__(self, cycles: Sequence[Cycle], asking: SearchBudget) -> None:
        self._asking = asking
        self._least = {cycle: least_of_all(cycle.within(inf)) for cycle in cycles}
        self._best: Found | None = None
        self._of_best: Cycle | None = None
        self._high = inf

    def shortest(self) -> Shortest:
        self._climb()
        for cycle in self._open():
            if self._least[cycle] < self._high:
                self._halve(cycle)
        while self._prove() and not self._asking.is_spent:
            pass
        least = min(self._least.values(), default=inf)
        return Shortest(self._best, self._high, least)

    def _open(self) -> list[Cycle]:
        """Those in which a better plan may exist."""
        return [c for c, least in self._least.items() if least < self._high * (1 - 4 * TIE)]

    def _climb(self) -> None:
        """From the least upwards until a plan is found: the tighter a question, the sooner it
        is answered."""
        least = min(self._least.values(), default=inf)
        for share in FIRST_SHARES:
            for cycle in self._open():
                within = least * (1 + share)
                if self._asking.is_spent:
                    return
                if self._least[cycle] < within and self._better(cycle, within, True):
                    return

    def _halve(self, cycle: Cycle) -> None:
        """The shortest cycle of these plans, nearly."""
        low = self._least[cycle]
        if self._of_best is not cycle and not self._better(cycle, self._high * (1 - 2 * TIE), True):
            return
        while self._high > low * (1 + CLOSE_ENOUGH) and not self._asking.is_spent:
            middle = (low + self._high) / 2
            if not self._better(cycle, middle, True):
                low = middle

    def _prove(self) -> bool:
        """Look for the best plan; whether one is better than what was known."""
        known = self._high
        for cycle in self._open():
            while self._least[cycle] < self._high * (1 - 4 * TIE):
                if not self._better(cycle, self._high * (1 - 2 * TIE), False):
                    break
        return self._high < known

    def _better(self, cycle: Cycle, cycle_s: float, any_will_do: bool) -> bool:
        labels = LABELS_OF_A_STEP if any_will_do else MOST_LABELS
        answer = self._asking.ask(replace(cycle.within(cycle_s), any_will_do=any_will_do), labels)
        if answer.found is None:
            self._least[cycle] = max(self._least[cycle], min(answer.bound, cycle_s))
            return False
        if answer.proven and not any_will_do:
            self._least[cycle] = max(self._least[cycle], answer.found.cost)
        self._best, self._of_best, self._high = answer.found, cycle, cycle.of(answer.found)
        return True


def required(problem: Problem) -> frozenset[int]:
    """Numbers of the machines that must hold a stage."""
    names = [machine.name for machine in problem.machines]
    return frozenset(names.index(name) for name in problem.required if name in names)
