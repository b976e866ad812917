"""Cuts with the least busy bottleneck, for a plan whose nodes and order are fixed."""

from __future__ import annotations

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array

UNEVENNESS_COST = 1e-8
"""Share of the cost limit that unevenness adds, to decide between cuts of equal cost."""


def most_even_cuts(cost: Array, busy: Array, limit: float) -> tuple[int, ...]:
    """Finds the cuts with the shortest busiest stage among those within a cost limit.

    Of equal ones it takes the cheapest, and of equally cheap ones the most even. A binary search
    over all stage times finds the shortest busiest stage; dynamic programming over the stages
    finds the cheapest cuts for each.

    Args:
        cost: (S, P, P) cost of each stage from one position to another; infinite where it is
            not allowed. Some cuts must cost at most ``limit``.
        busy: (S, P, P) seconds for which the stage is busy.

    Returns: S + 1 positions, from 0 to P - 1.
    """
    seconds = np.unique(busy[np.isfinite(cost)])
    low, high = -1, len(seconds) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if _cheapest_cuts(np.where(busy <= seconds[middle], cost, np.inf))[0] <= limit:
            high = middle
        else:
            low = middle
    longest = seconds[high]
    uneven = UNEVENNESS_COST * limit * (busy / longest) ** 2 if longest > 0 else 0.0
    return _cheapest_cuts(np.where(busy <= longest, cost + uneven, np.inf))[1]


def _cheapest_cuts(cost: Array) -> tuple[float, tuple[int, ...]]:
    lowest = np.full(cost.shape[1], np.inf)
    lowest[0] = 0.0
    starts: list[Array] = []
    for stage in cost:
        total = lowest[:, None] + stage
        starts.append(total.argmin(axis=0))
        lowest = total.min(axis=0)
    cuts = [cost.shape[1] - 1]
    for chosen in reversed(starts):
        cuts.append(int(chosen[cuts[-1]]))
    return float(lowest[-1]), tuple(reversed(cuts))
