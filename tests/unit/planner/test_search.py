"""The search finds what trying everything finds."""

from __future__ import annotations

import random
from itertools import combinations, permutations

import pytest

from pomona_planner.solver.query import Found, SolverQuery
from pomona_planner.solver.search import solve
from support.planner_instances import random_allowed, random_costs


def brute_force(question: SolverQuery) -> float | None:
    count, positions = question.costs.before.shape
    best: float | None = None
    for stages in range(question.fewest, min(count, positions - 1, question.most) + 1):
        for nodes in permutations(range(count), stages):
            if not question.required <= set(nodes):
                continue
            for inner in combinations(range(1, positions - 1), stages - 1):
                cuts = [0, *inner, positions - 1]
                ranges = zip(nodes, cuts[:-1], cuts[1:], strict=True)
                if not all(question.allowed[n, a, b] for n, a, b in ranges):
                    continue
                if (
                    question.second
                    and question.second.of(list(nodes), cuts) > question.second_limit
                ):
                    continue
                cost = question.costs.of(list(nodes), cuts)
                best = cost if best is None else min(best, cost)
    return best


def valid(question: SolverQuery, found: Found) -> bool:
    ranges = zip(found.nodes, found.cuts[:-1], found.cuts[1:], strict=True)
    return (
        len(set(found.nodes)) == len(found.nodes)
        and question.required <= set(found.nodes)
        and all(question.allowed[n, a, b] for n, a, b in ranges)
        and question.fewest <= len(found.nodes) <= question.most
    )


def random_question(seed: int) -> SolverQuery:
    random_ = random.Random(seed)
    kind = random_.choice(["different", "twins", "flat"])
    nodes, positions = random_.randint(1, 4), random_.randint(2, 7)
    costs = random_costs(random_, nodes, positions, kind)
    second, limit = None, float("inf")
    if random_.random() < 0.4:
        second = random_costs(random_, nodes, positions, kind)
        limit = random_.uniform(1, 15)
    fewest, most = random_.choice([(1, 20), (1, 20), (1, 1), (2, 2), (3, 3), (2, 20), (1, 2)])
    return SolverQuery(
        costs,
        random_allowed(random_, nodes, positions, kind),
        fewest,
        most,
        required=frozenset({random_.randrange(nodes)}) if random_.random() < 0.3 else frozenset(),
        second=second,
        second_limit=limit,
    )


@pytest.mark.parametrize("block", range(12))
def test_it_is_never_worse_than_trying_everything(block: int) -> None:
    for seed in range(250 * block, 250 * block + 250):
        question = random_question(seed)
        best, answer = brute_force(question), solve(question)
        found = answer.found
        assert answer.proven, seed
        if best is None:
            assert found is None, seed
            continue
        assert found is not None, seed
        assert valid(question, found), seed
        assert found.cost == pytest.approx(best, rel=1e-8), seed
        assert question.costs.of(list(found.nodes), list(found.cuts)) == pytest.approx(found.cost)
