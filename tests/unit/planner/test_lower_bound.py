"""A bound is never above what the cheapest way to go on really costs, whatever the prices."""

from __future__ import annotations

import random
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona_planner.solver.lagrangian import best_prices
from pomona_planner.solver.lower_bound import Bound, least_of_all
from pomona_planner.solver.node_sets import FreeSums, members
from pomona_planner.solver.query import SolverQuery
from support.planner_instances import random_allowed, random_costs

ROUNDING = 1e-9


@st.composite
def questions(draw: st.DrawFn) -> SolverQuery:
    """Small ones of every kind: equal and different machines, a fixed number of stages or not,
    machines that must be used, machines that hold little."""
    random_ = draw(st.randoms(use_true_random=False))
    kind = draw(st.sampled_from(["different", "twins", "flat"]))
    nodes, positions = draw(st.integers(1, 4)), draw(st.integers(2, 7))
    fewest, most = draw(st.sampled_from([(1, 20), (1, 1), (2, 2), (3, 3), (2, 20), (1, 2)]))
    required = draw(st.frozensets(st.integers(0, nodes - 1), max_size=1))
    return SolverQuery(
        random_costs(random_, nodes, positions, kind),
        random_allowed(random_, nodes, positions, kind),
        fewest,
        most,
        required=required,
    )


def rest_of_plan(
    question: SolverQuery, used: tuple[int, ...], front: int, tail: int, position: int
) -> float:
    """The least that layers before ``position`` cost when these nodes hold the ones after it:
    stages, links to the front, and the way back. Infinite when they cannot be held."""
    costs = question.costs
    stage = costs.stage
    free = [node for node in range(len(costs.fixed)) if node not in used]
    best = float("inf")
    for count in range(1, min(len(free), position) + 1):
        if not question.fewest <= len(used) + count <= question.most:
            continue
        for nodes in permutations(free, count):
            if not question.required <= {*used, *nodes}:
                continue
            links = sum(costs.link[a, b] for a, b in pairwise((*nodes, front)))
            for inner in combinations(range(1, position), count - 1):
                ranges = list(zip(nodes, (0, *inner), (*inner, position), strict=True))
                if all(question.allowed[range_] for range_ in ranges):
                    held = sum(stage[range_] for range_ in ranges)
                    best = min(best, float(held + links + costs.back[tail, nodes[0]]))
    return best


@settings(max_examples=300, deadline=None)
@given(questions(), st.data())
def test_no_part_of_a_plan_is_bounded_above_the_cheapest_way_to_end_it(
    question: SolverQuery, data: st.DataObject
) -> None:
    count, positions = question.costs.before.shape
    guess = data.draw(st.permutations(range(count)))[: data.draw(st.integers(0, count))]
    bound = Bound(question, best_prices(question, guess))
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
        bounds = bound.of(masks, fronts, tails, level).at(np.arange(len(parts)), at)
        for part, least in zip(parts, bounds, strict=True):
            really = rest_of_plan(question, *part)
            assert least <= really + ROUNDING * (1 + abs(really)), (part, least, really)


@settings(max_examples=300, deadline=None)
@given(questions())
def test_the_bound_of_all_is_never_above_the_cheapest_plan(question: SolverQuery) -> None:
    costs = question.costs
    stage = costs.stage
    count, positions = costs.before.shape
    best = float("inf")
    for stages in range(question.fewest, min(count, positions - 1, question.most) + 1):
        for nodes in permutations(range(count), stages):
            for inner in combinations(range(1, positions - 1), stages - 1):
                ranges = list(zip(nodes, (0, *inner), (*inner, positions - 1), strict=True))
                if question.required <= set(nodes) and all(question.allowed[r] for r in ranges):
                    held = sum(float(stage[range_]) for range_ in ranges)
                    best = min(best, held + costs.links_of(list(nodes)))
    assert least_of_all(question) <= best + ROUNDING * (1 + abs(best))


@given(st.integers(1, 20), st.data())
def test_sums_over_free_nodes_are_looked_up_whole(count: int, data: st.DataObject) -> None:
    numbers = st.lists(st.integers(0, 2**count - 1), min_size=1, max_size=8)
    masks = np.array(data.draw(numbers))
    of_nodes = np.arange(1.0, 2 * count + 1).reshape(count, 2) ** 2
    sums = FreeSums(of_nodes)
    used = members(masks, count)
    for column in (0, 1):
        columns = np.full(len(masks), column)
        found = sums.at(sums.rows(masks), np.arange(len(masks)), columns)
        for mask, row, one in zip(masks.tolist(), used, found, strict=True):
            assert row.tolist() == [bool(mask >> node & 1) for node in range(count)]
            assert one == of_nodes[~row, column].sum()


def test_the_bound_is_worth_having() -> None:
    """Where memory holds a few layers each, it comes within a tenth of the best plan."""
    random_ = random.Random(5)
    costs = random_costs(random_, 4, 7, "flat")
    allowed = np.triu(np.ones((7, 7), dtype=bool), 1)
    allowed &= np.subtract.outer(np.arange(7), np.arange(7)).T <= 2
    question = SolverQuery(costs, np.broadcast_to(allowed, (4, 7, 7)).copy())
    stage = costs.stage
    plans = (
        sum(stage[r] for r in zip(nodes, (0, *inner), (*inner, 6), strict=True))
        + costs.links_of(list(nodes))
        for count in (3, 4)
        for nodes in permutations(range(4), count)
        for inner in combinations(range(1, 6), count - 1)
        if all(b - a <= 2 for a, b in pairwise((0, *inner, 6)))
    )
    best = min(plans)
    assert least_of_all(question) == pytest.approx(best, rel=0.1)
    assert least_of_all(question) <= best * (1 + ROUNDING)
