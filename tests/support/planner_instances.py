"""Random small instances of what the planner's search is asked."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np

from pomona_planner.cost_model.cost_arrays import Array, Costs


def random_costs(random_: random.Random, nodes: int, positions: int, kind: str) -> Costs:
    """Args: kind: ``different`` nodes and links, ``twins`` of two kinds, or ``flat`` links."""
    layers = [random_.choice([1.0, 1.0, 1.0, 2.5]) for _ in range(positions - 1)]
    speeds = [
        random_.choice([1.0, 2.0]) if kind == "twins" else random_.uniform(1, 4)
        for _ in range(nodes)
    ]
    kernel = [0.1 if kind == "twins" else random_.uniform(0, 0.3) for _ in range(nodes)]
    times = [
        [layer / speed + k for layer in layers] for speed, k in zip(speeds, kernel, strict=True)
    ]
    before = np.concatenate((np.zeros((nodes, 1)), np.cumsum(times, axis=1)), axis=1)
    if kind == "different":
        link = np.array([[random_.uniform(0, 2) for _ in range(nodes)] for _ in range(nodes)])
    else:
        link = np.full((nodes, nodes), random_.choice([0.0, 0.2, 1.0]))
    fixed = (
        np.full(nodes, 0.1)
        if kind == "twins"
        else np.array([random_.uniform(0, 0.5) for _ in range(nodes)])
    )
    return Costs(fixed, before, random_.uniform(0, 3) / np.array(speeds), link, link.T / 2)


def random_allowed(random_: random.Random, nodes: int, positions: int, kind: str) -> Array:
    """Ranges of a few layers, fewer at the two ends, as memory allows them."""
    allowed = np.zeros((nodes, positions, positions), dtype=bool)
    most = [random_.randint(1, positions) for _ in range(nodes)]
    for node in range(nodes):
        room = most[0] if kind == "twins" else most[node]
        for start, stop in combinations(range(positions), 2):
            ends = (start == 0) + (stop == positions - 1)
            allowed[node, start, stop] = stop - start + ends <= room + 1
    return allowed
