"""Lower bounds never exceed the cost of the cheapest plan, whatever the prices."""

from __future__ import annotations

import random
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona_planner.solver.lagrangian import best_prices
from pomona_planner.solver.lower_bound import LowerBound, bound_all_plans
from pomona_planner.solver.query import SolverQuery
from support.planner_instances import random_allowed, random_costs

ROUNDING = 1e-9


@st.composite
def queries(draw: st.DrawFn) -> SolverQuery:
    """Small queries: equal and different nodes, fixed and free numbers of stages, required nodes,
    and nodes with little memory."""
    random_ = draw(st.randoms(use_true_random=False))
    kind = draw(st.sampled_from(["different", "twins", "flat"]))
    nodes, positions = draw(st.integers(1, 4)), draw(st.integers(2, 7))
    min_stages, max_stages = draw(
        st.sampled_from([(1, 20), (1, 1), (2, 2), (3, 3), (2, 20), (1, 2)])
    )
    required = draw(st.frozensets(st.integers(0, nodes - 1), max_size=1))
    return SolverQuery(
        random_costs(random_, nodes, positions, kind),
        random_allowed(random_, nodes, positions, kind),
        min_stages,
        max_stages,
        required=required,
    )


def rest_of_plan(
    query: SolverQuery, used: tuple[int, ...], front: int, tail: int, position: int
) -> float:
    """Returns the lowest cost of placing the layers before ``position`` on the unused nodes.

    It includes stages, links to the front and the link from tail to head; infinite when they do
    not fit.
    """
    costs = query.costs
    stage = costs.stage
    free = [node for node in range(len(costs.fixed)) if node not in used]
    best = float("inf")
    for count in range(1, min(len(free), position) + 1):
        if not query.min_stages <= len(used) + count <= query.max_stages:
            continue
        for nodes in permutations(free, count):
            if not query.required <= {*used, *nodes}:
                continue
            links = sum(costs.link[a, b] for a, b in pairwise((*nodes, front)))
            for inner in combinations(range(1, position), count - 1):
                ranges = list(zip(nodes, (0, *inner), (*inner, position), strict=True))
                if all(query.allowed[range_] for range_ in ranges):
                    held = sum(stage[range_] for range_ in ranges)
                    best = min(best, float(held + links + costs.back[tail, nodes[0]]))
    return best


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(queries(), st.data())
def test_no_partial_plan_is_bounded_above_its_cheapest_completion(
    query: SolverQuery, data: st.DataObject
) -> None:
    count, positions = query.costs.before.shape
    guess = data.draw(st.permutations(range(count)))[: data.draw(st.integers(0, count))]
    bound = LowerBound(query, best_prices(query, guess))
    for level in range(1, count):
        parts = [
            (used, front, tail, position)
            for used in combinations(range(count), level)
            for front in used
            for tail in used
            if (front == tail) == (level == 1)
            for position in range(1, positions - 1)
        ]
        if not parts:
            continue
        masks = np.array([sum(1 << node for node in used) for used, _, _, _ in parts])
        fronts, tails, at = (np.array([part[i] for part in parts]) for i in (1, 2, 3))
        bounds = bound.remaining(masks, fronts, tails, level).at(np.arange(len(parts)), at)
        for part, lowest in zip(parts, bounds, strict=True):
            actual = rest_of_plan(query, *part)
            assert lowest <= actual + ROUNDING * (1 + abs(actual)), (part, lowest, actual)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(queries())
def test_the_bound_of_all_plans_never_exceeds_the_cheapest_one(query: SolverQuery) -> None:
    costs = query.costs
    stage = costs.stage
    count, positions = costs.before.shape
    best = float("inf")
    for stages in range(query.min_stages, min(count, positions - 1, query.max_stages) + 1):
        for nodes in permutations(range(count), stages):
            for inner in combinations(range(1, positions - 1), stages - 1):
                ranges = list(zip(nodes, (0, *inner), (*inner, positions - 1), strict=True))
                if query.required <= set(nodes) and all(query.allowed[r] for r in ranges):
                    held = sum(float(stage[range_]) for range_ in ranges)
                    best = min(best, held + costs.link_cost(list(nodes)))
    assert bound_all_plans(query) <= best + ROUNDING * (1 + abs(best))


def test_the_bound_is_within_a_tenth_of_the_best_plan_when_memory_is_tight() -> None:
    random_ = random.Random(5)
    costs = random_costs(random_, 4, 7, "flat")
    allowed = np.triu(np.ones((7, 7), dtype=bool), 1)
    allowed &= np.subtract.outer(np.arange(7), np.arange(7)).T <= 2
    query = SolverQuery(costs, np.broadcast_to(allowed, (4, 7, 7)).copy())
    stage = costs.stage
    plans = (
        sum(stage[r] for r in zip(nodes, (0, *inner), (*inner, 6), strict=True))
        + costs.link_cost(list(nodes))
        for count in (3, 4)
        for nodes in permutations(range(4), count)
        for inner in combinations(range(1, 6), count - 1)
        if all(b - a <= 2 for a, b in pairwise((0, *inner, 6)))
    )
    best = min(plans)
    assert bound_all_plans(query) == pytest.approx(best, rel=0.1)
    assert bound_all_plans(query) <= best * (1 + ROUNDING)
