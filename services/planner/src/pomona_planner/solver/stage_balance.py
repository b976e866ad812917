"""Cuts that leave no stage much busier than the others: for a plan whose nodes and order stand."""

from __future__ import annotations

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array

EVENNESS = 1e-8
"""Share of the limit that uneven stages are thought to cost more: it decides between cuts that
cost the same."""


def evenest(cost: Array, busy: Array, limit: float) -> tuple[int, ...]:
    """Cuts with the shortest busiest stage, among those that cost at most ``limit``; of these the
    cheapest, and of equally cheap ones those whose other stages are the most even.

    The limit of the busiest is halved over all times that a stage can take; for each the
    cheapest cuts are found stage by stage (dynamic programming).

    Args:
        cost: (S, P, P) of each stage from one position to another; infinite where it is not
            allowed. Some cuts must cost no more than ``limit``.
        busy: (S, P, P) seconds for which the stage is busy.
    Returns: positions, one more than stages.
    """
    times = np.unique(busy[np.isfinite(cost)])
    low, high = -1, len(times) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if _cheapest(np.where(busy <= times[middle], cost, np.inf))[0] <= limit:
            high = middle
        else:
            low = middle
    longest = times[high]
    uneven = EVENNESS * limit * (busy / longest) ** 2 if longest > 0 else 0.0
    return _cheapest(np.where(busy <= longest, cost + uneven, np.inf))[1]


def _cheapest(cost: Array) -> tuple[float, tuple[int, ...]]:
    least = np.full(cost.shape[1], np.inf)
    least[0] = 0.0
    starts: list[Array] = []
    for stage in cost:
        whole = least[:, None] + stage
        starts.append(whole.argmin(axis=0))
        least = whole.min(axis=0)
    cuts = [cost.shape[1] - 1]
    for chosen in reversed(starts):
        cuts.append(int(chosen[cuts[-1]]))
    return float(least[-1]), tuple(reversed(cuts))
