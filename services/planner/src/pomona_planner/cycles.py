"""Plans by the time in which all users get a token.

That is the way round the pipeline, or the busiest stage or link once for every lane,
whichever is longer. How long the busiest may be is halved until the shortest cycle is found,
each time by the search for one user's time: is there any plan within it?
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import isinf

import numpy as np

from pomona_planner import tables
from pomona_planner.asking import Asking
from pomona_planner.bounds import least_of_all
from pomona_planner.predicting import lanes_and_rows
from pomona_planner.problem import Problem
from pomona_planner.questions import TIE, Array, Costs, Found, Question
from pomona_planner.search import MOST_LABELS

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
        self.costs = tables.costs(problem, rows)
        self._stage = self.costs.stage()
        self._busy = tables.occupancy(problem, rows)

    def of(self, found: Found) -> float:
        """Seconds."""
        ranges = zip(found.nodes, found.cuts[:-1], found.cuts[1:], strict=True)
        longest = max(float(self._stage[n, a, b]) for n, a, b in ranges)
        for a, b in pairwise(found.nodes):
            longest = max(longest, float(self._busy[a, b]))
        whole = self.costs.of(list(found.nodes), list(found.cuts))
        return max(whole, self._lanes * longest)

    def question(self, costs: Costs, cycle_s: float) -> Question:
        """Plans in which no stage and no link is busy for longer than a lane's share."""
        longest = cycle_s / self._lanes * (1 + TIE)
        usable = self._busy <= longest
        return Question(
            replace(costs, link=np.where(usable, costs.link, np.inf)),
            self._allowed & (self._stage <= longest),
            self._fewest,
            self._most,
            required=self._required,
        )

    def may_be_within(self, cycle_s: float) -> bool:
        """False when no plan's cycle is shorter."""
        return least_of_all(self._within(cycle_s)) < cycle_s * (1 - TIE)

    def shortest(self, asking: Asking, below: float) -> tuple[Found | None, float]:
        """The plan of the shortest cycle, shorter than ``below``; None when none was found.

        Halving: is there any plan whose cycle is at most t? At the end, the quickest way round
        of those whose cycle is shorter than the best one's, and a proof that there is no other.
        Returns also a time that no plan's cycle is below, but for the one found: at least its
        own, or ``below``, when the proof is whole.
        """
        least = least_of_all(self._within(below))
        if least >= below * (1 - TIE):
            return None, below

        def ask(cycle_s: float, labels: int, any_will_do: bool) -> Found | None:
            nonlocal least
            question = replace(self._within(cycle_s), any_will_do=any_will_do)
            answer = asking.ask(question, labels)
            if answer.found is None:
                least = max(least, min(answer.bound, cycle_s))
            elif answer.proven and not any_will_do:
                least = max(least, answer.found.cost)
            return answer.found

        low, high = least, below
        best: Found | None = None
        # From the least upwards: the tighter a question, the sooner it is answered.
        tries = [least * (1 + share) for share in FIRST_SHARES] if isinf(below) else [below]
        for tried in tries:
            if asking.is_spent:
                break
            best = ask(tried, LABELS_OF_A_STEP, True)
            if best is not None:
                high = self.of(best)
                break
            low = tried
        while True:
            while best and high > low * (1 + CLOSE_ENOUGH) and not asking.is_spent:
                middle = (low + high) / 2
                found = ask(middle, LABELS_OF_A_STEP, True)
                if found is None:
                    low = middle
                else:
                    best, high = found, self.of(found)
            found = ask(high * (1 - 2 * TIE), MOST_LABELS, False)
            if found is not None:
                best, high = found, self.of(found)
            if least >= high * (1 - 4 * TIE):
                return best, high
            if found is None or asking.is_spent:
                return best, least

    def _within(self, cycle_s: float) -> Question:
        return replace(self.question(self.costs, cycle_s), below=cycle_s)


def required(problem: Problem) -> frozenset[int]:
    """Numbers of the machines that must hold a stage."""
    names = [machine.name for machine in problem.machines]
    return frozenset(names.index(name) for name in problem.required if name in names)
