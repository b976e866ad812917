"""Nodes that may be swapped without a difference: of those only one order need be tried."""

from __future__ import annotations

import numpy as np

from pomona_planner.questions import Array, Question


def twins(question: Question) -> list[int | None]:
    """For each node the interchangeable one before it, which is to be used first."""
    count = question.costs.fixed.shape[0]
    kinds = [question.costs] + ([question.second] if question.second is not None else [])

    def same(a: int, b: int) -> bool:
        if (a in question.required) != (b in question.required):
            return False
        if not np.array_equal(question.allowed[a], question.allowed[b]):
            return False
        return all(
            costs.fixed[a] == costs.fixed[b]
            and costs.last[a] == costs.last[b]
            and np.array_equal(costs.before[a], costs.before[b])
            and _same_links(costs.link, a, b)
            and _same_links(costs.back, a, b)
            for costs in kinds
        )

    return [next((a for a in range(b - 1, -1, -1) if same(a, b)), None) for b in range(count)]


def link_classes(question: Question) -> Array:
    """A number for each node; nodes of one number have the same links to all others."""
    count = question.costs.fixed.shape[0]
    kinds = [question.costs] + ([question.second] if question.second is not None else [])
    classes = np.arange(count)
    for b in range(count):
        for a in range(b):
            if all(_same_links(c.link, a, b) and _same_links(c.back, a, b) for c in kinds):
                classes[b] = classes[a]
                break
    return classes


def _same_links(matrix: Array, a: int, b: int) -> bool:
    """Whether swapping two nodes leaves the matrix as it is."""
    others = [n for n in range(len(matrix)) if n not in (a, b)]
    return bool(
        matrix[a, b] == matrix[b, a]
        and np.array_equal(matrix[a, others], matrix[b, others])
        and np.array_equal(matrix[others, a], matrix[others, b])
    )
