"""Query to the search and its result, in arrays of N nodes and P cut positions."""

from __future__ import annotations

from dataclasses import dataclass

from pomona_planner.cost_model.cost_arrays import Array, Costs

MAX_NODES = 20
"""Maximum number of nodes: sets of nodes are numbers below ``2 ** MAX_NODES``."""
TIE = 1e-9
"""Relative difference below which costs are equal."""


@dataclass(frozen=True, slots=True, eq=False)
class SolverQuery:
    """Constraints and objective of one search for the cheapest plan.

    Attributes:
        costs: costs to minimise, over all stages and links.
        allowed: (N, P, P) whether a node may hold a stage from one position to another.
        min_stages, max_stages: limits of the number of stages.
        required: nodes that must hold a stage.
        cost_limit: plans must cost less than this.
        second_costs: costs of another kind, whose sum must not exceed ``second_limit``.
        stop_at_first: stops at the first plan found, without a proof.
    """

    costs: Costs
    allowed: Array
    min_stages: int = 1
    max_stages: int = MAX_NODES
    required: frozenset[int] = frozenset()
    cost_limit: float = float("inf")
    second_costs: Costs | None = None
    second_limit: float = float("inf")
    stop_at_first: bool = False


@dataclass(frozen=True, slots=True)
class Solution:
    """A plan in the terms of a query.

    Attributes:
        nodes: in the order of the stages.
        cuts: positions from 0 to P - 1, around the stages.
        cost: seconds, in the costs that were minimised.
    """

    nodes: tuple[int, ...]
    cuts: tuple[int, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class SolverResult:
    """Result of a search.

    Attributes:
        solution: cheapest plan found; None when no plan below the query's limit was found.
        bound: lower bound on the cost of every other plan below the query's limit; infinite
            after a complete search.
        labels: number of labels that the search generated.
    """

    solution: Solution | None
    bound: float
    labels: int

    @property
    def proven(self) -> bool:
        """True when no plan is cheaper than ``solution``, or none exists if it is None."""
        return self.bound == float("inf") or (
            self.solution is not None and self.bound >= self.solution.cost
        )
