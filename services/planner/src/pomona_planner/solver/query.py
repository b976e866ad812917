"""What the search is asked, in arrays, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from pomona_planner.cost_model.cost_arrays import Array, Costs

MAX_NODES = 20
"""Sets of nodes are numbered; this many nodes make a million sets."""
TIE = 1e-9
"""Costs that differ by less than this share are equal."""


@dataclass(frozen=True, slots=True, eq=False)
class SolverQuery:
    """Find the cheapest plan.

    Attributes:
        costs: to be minimised: all stages, all links, and the way back.
        allowed: (N, P, P) whether a node may hold a stage from one position to another.
        fewest, most: stages.
        required: nodes that must be used.
        below: only plans that cost less than this.
        second: costs of another kind, whose sum must not pass ``second_limit``.
        any_will_do: the first plan found is good enough.
    """

    costs: Costs
    allowed: Array
    fewest: int = 1
    most: int = MAX_NODES
    required: frozenset[int] = frozenset()
    below: float = float("inf")
    second: Costs | None = None
    second_limit: float = float("inf")
    any_will_do: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A plan.

    Attributes:
        nodes: in the order of the stages.
        cuts: positions, one more than nodes.
        cost: what was minimised.
    """

    nodes: tuple[int, ...]
    cuts: tuple[int, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Attributes:
    found: the cheapest plan, or None when none costs less than ``below``.
    bound: no plan costs less than this, but for ``found``; infinite when the search was
        whole.
    labels: looked at.
    """

    found: Found | None
    bound: float
    labels: int

    @property
    def proven(self) -> bool:
        return self.bound == float("inf") or (
            self.found is not None and self.bound >= self.found.cost
        )
