"""Nodes that may be swapped without a difference: of those only one order need be tried."""

from __future__ import annotations

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array
from pomona_planner.solver.query import SolverQuery


def interchangeable_nodes(question: SolverQuery) -> list[int | None]:
    """For each node the interchangeable one before it, which is to be used first."""
    count = question.costs.fixed.shape[0]
    kinds = [question.costs] + ([question.second] if question.second is not None else [])

    def same(a: int, b: int) -> bool:
        return (
            (a in question.required) == (b in question.required)
            and all(
                costs.fixed[a] == costs.fixed[b]
                and costs.last[a] == costs.last[b]
                and np.array_equal(costs.before[a], costs.before[b])
                and costs.same_links(a, b)
                for costs in kinds
            )
            and np.array_equal(question.allowed[a], question.allowed[b])
        )

    return [next((a for a in range(b - 1, -1, -1) if same(a, b)), None) for b in range(count)]


def link_classes(question: SolverQuery) -> Array:
    """A number for each node; nodes of one number have the same links to all others."""
    classes = question.costs.link_classes
    if question.second is None:
        return classes
    both = classes * len(classes) + question.second.link_classes
    return np.unique(both, return_inverse=True)[1]
