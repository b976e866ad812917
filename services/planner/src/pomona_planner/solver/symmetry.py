"""Symmetry of nodes: interchangeable nodes are tried in one order only."""

from __future__ import annotations

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array
from pomona_planner.solver.query import SolverQuery


def interchangeable_nodes(query: SolverQuery) -> list[int | None]:
    """Returns for each node the interchangeable one before it, which is to be used first."""
    count = query.costs.fixed.shape[0]
    all_costs = [query.costs] + ([query.second_costs] if query.second_costs is not None else [])

    def interchangeable(a: int, b: int) -> bool:
        return (
            (a in query.required) == (b in query.required)
            and all(
                costs.fixed[a] == costs.fixed[b]
                and costs.last[a] == costs.last[b]
                and np.array_equal(costs.before[a], costs.before[b])
                and costs.have_same_links(a, b)
                for costs in all_costs
            )
            and np.array_equal(query.allowed[a], query.allowed[b])
        )

    return [
        next((a for a in range(b - 1, -1, -1) if interchangeable(a, b)), None) for b in range(count)
    ]


def link_classes(query: SolverQuery) -> Array:
    """Returns (N,): a class of each node; nodes of one class have the same links to all others."""
    classes = query.costs.link_classes
    if query.second_costs is None:
        return classes
    both = classes * len(classes) + query.second_costs.link_classes
    return np.unique(both, return_inverse=True)[1]
