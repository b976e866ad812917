"""The search finds the plan that brute force finds."""

from __future__ import annotations

import random
from itertools import combinations, permutations

import pytest

from pomona_planner.solver.query import Solution, SolverQuery
from pomona_planner.solver.search import solve
from support.planner_instances import random_allowed, random_costs


def brute_force(query: SolverQuery) -> float | None:
    count, positions = query.costs.before.shape
    best: float | None = None
    for stages in range(query.min_stages, min(count, positions - 1, query.max_stages) + 1):
        for nodes in permutations(range(count), stages):
            if not query.required <= set(nodes):
                continue
            for inner in combinations(range(1, positions - 1), stages - 1):
                cuts = [0, *inner, positions - 1]
                ranges = zip(nodes, cuts[:-1], cuts[1:], strict=True)
                if not all(query.allowed[n, a, b] for n, a, b in ranges):
                    continue
                if (
                    query.second_costs
                    and query.second_costs.plan_cost(list(nodes), cuts) > query.second_limit
                ):
                    continue
                cost = query.costs.plan_cost(list(nodes), cuts)
                best = cost if best is None else min(best, cost)
    return best


def is_valid(query: SolverQuery, found: Solution) -> bool:
    ranges = zip(found.nodes, found.cuts[:-1], found.cuts[1:], strict=True)
    return (
        len(set(found.nodes)) == len(found.nodes)
        and query.required <= set(found.nodes)
        and all(query.allowed[n, a, b] for n, a, b in ranges)
        and query.min_stages <= len(found.nodes) <= query.max_stages
    )


def random_query(seed: int) -> SolverQuery:
    random_ = random.Random(seed)
    kind = random_.choice(["different", "twins", "flat"])
    nodes, positions = random_.randint(1, 4), random_.randint(2, 7)
    costs = random_costs(random_, nodes, positions, kind)
    second, limit = None, float("inf")
    if random_.random() < 0.4:
        second = random_costs(random_, nodes, positions, kind)
        limit = random_.uniform(1, 15)
    min_stages, max_stages = random_.choice(
        [(1, 20), (1, 20), (1, 1), (2, 2), (3, 3), (2, 20), (1, 2)]
    )
    return SolverQuery(
        costs,
        random_allowed(random_, nodes, positions, kind),
        min_stages,
        max_stages,
        required=frozenset({random_.randrange(nodes)}) if random_.random() < 0.3 else frozenset(),
        second_costs=second,
        second_limit=limit,
    )


@pytest.mark.slow
@pytest.mark.parametrize("block", range(12))
def test_the_search_is_never_worse_than_brute_force(block: int) -> None:
    for seed in range(250 * block, 250 * block + 250):
        query = random_query(seed)
        best, result = brute_force(query), solve(query)
        found = result.solution
        assert result.proven, seed
        if best is None:
            assert found is None, seed
            continue
        assert found is not None, seed
        assert is_valid(query, found), seed
        assert found.cost == pytest.approx(best, rel=1e-8), seed
        assert query.costs.plan_cost(list(found.nodes), list(found.cuts)) == pytest.approx(
            found.cost
        )
