"""Questions to the search out of one budget, so that a choice comes within about a second."""

from __future__ import annotations

from pomona_planner.solver.query import Answer, SolverQuery
from pomona_planner.solver.search import BEAM, solve

LABELS_OF_A_CALL = 50_000
"""What a search costs besides, in labels looked at in that time."""
NARROW_BEAM = 32


class SearchBudget:
    """Args: labels: that all searches together may look at."""

    def __init__(self, labels: int) -> None:
        self._left = labels

    @property
    def is_spent(self) -> bool:
        """Whether it is time to come to an end."""
        return self._left <= 0

    def ask(self, question: SolverQuery, labels: int) -> Answer:
        """The cheapest plan; with what is left of the budget, at most so many labels."""
        labels = max(min(labels, self._left), 0)
        answer = solve(question, labels, NARROW_BEAM if question.any_will_do else BEAM)
        self._left -= answer.labels + LABELS_OF_A_CALL
        return answer
