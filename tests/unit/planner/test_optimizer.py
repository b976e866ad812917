"""The chosen plan is the best of all plans for its aim."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise, permutations, product

import pytest

from pomona.models import EMBEDDED_MODEL, read_facts
from pomona_ops.bench.solver import synthetic_problem
from pomona_planner.cost_model.memory import stage_bytes
from pomona_planner.cost_model.prediction import Plan, cycle_seconds, predict
from pomona_planner.cost_model.problem import Aim, Demand, Link, Machine, Objective, Problem
from pomona_planner.solver.infeasible import Infeasible
from pomona_planner.solver.optimizer import BALANCE_SLACK, OptimizedPlan, choose
from support.planner_instances import MEGA, small_model


def random_problem(seed: int) -> Problem:
    random_ = random.Random(seed)
    count = random_.randint(1, 4)
    layers = [random_.choice([50, 50, 80]) for _ in range(random_.randint(2, 6))]
    machines = tuple(
        Machine(
            f"m{n}",
            random_.randint(400, 1400) * MEGA,
            random_.uniform(50, 400) * 1e9,
            random_.uniform(1, 20) * 1e12,
            full_precision=random_.random() < 0.2,
        )
        for n in range(count)
    )
    names = [machine.name for machine in machines]
    links = {
        (a, b): Link(random_.uniform(5e-5, 3e-3), random_.uniform(1e7, 5e9))
        for a in names
        for b in names
        if a != b
    }
    return Problem(
        small_model(layers, tied=random_.random() < 0.5),
        machines,
        links,
        Demand(users=random_.choice([1, 2, 5])),
        required=frozenset({names[0]}) if random_.random() < 0.2 else frozenset(),
    )


def every_plan(problem: Problem) -> Iterator[Plan]:
    """Yields each plan that fits, by brute force."""
    layers = problem.facts.layer_count
    memory = stage_bytes(problem)
    for stages in range(1, min(len(problem.machines), layers) + 1):
        for nodes in permutations(range(len(problem.machines)), stages):
            used = {problem.machines[node].name for node in nodes}
            if not problem.required <= used:
                continue
            for inner in combinations(range(1, layers), stages - 1):
                bounds = (0, *inner, layers)
                ranges = zip(nodes, bounds[:-1], bounds[1:], strict=True)
                if all(memory[n, a, b] <= problem.machines[n].memory_bytes for n, a, b in ranges):
                    yield Plan(nodes, bounds)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_no_plan_is_faster_for_one_user(block: int) -> None:
    for seed in range(60 * block, 60 * block + 60):
        problem = random_problem(seed)
        speeds = [predict(problem, plan).tokens_per_second for plan in every_plan(problem)]
        found = choose(problem, Aim(floor=0))
        if not speeds:
            assert isinstance(found, Infeasible), seed
            continue
        assert isinstance(found, OptimizedPlan), seed
        assert found.proven, seed
        assert found.balance_cost <= BALANCE_SLACK, seed
        expected = pytest.approx(max(speeds) * (1 - found.balance_cost), rel=1e-6)
        assert found.prediction.tokens_per_second == expected, seed
        assert found.prediction.cache_tokens >= problem.demand.context * problem.demand.users


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_no_plan_has_a_higher_throughput(block: int) -> None:
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        problem = random_problem(seed)
        users = problem.demand.users
        cycles = [cycle_seconds(problem, plan, users) for plan in every_plan(problem)]
        found = choose(problem, Aim("throughput"))
        if not cycles:
            assert isinstance(found, Infeasible), seed
            continue
        assert isinstance(found, OptimizedPlan), seed
        assert found.proven, seed
        assert users / min(cycles) == pytest.approx(
            found.prediction.users_tokens_per_second, rel=1e-6
        ), seed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal", "mixed", "different", "tight"])
@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_the_order_of_sixteen_machines_makes_no_difference(kind: str, objective: Objective) -> None:
    """Checks the search where brute force takes too long."""
    problem = synthetic_problem(2, kind, users=1 if objective == "latency" else 8)
    backwards = replace(problem, machines=problem.machines[::-1])
    one, other = (choose(p, Aim(objective)) for p in (problem, backwards))
    assert isinstance(one, OptimizedPlan)
    assert isinstance(other, OptimizedPlan)
    assert one.proven
    assert other.proven

    def best(choice: OptimizedPlan) -> float:
        prediction = choice.prediction
        if objective == "throughput":
            return prediction.users_tokens_per_second
        return prediction.tokens_per_second / (1 - choice.balance_cost)

    assert best(one) == pytest.approx(best(other), rel=1e-8)


def test_a_high_floor_trades_one_users_speed_for_throughput() -> None:
    facts = small_model([200] * 8)
    machines = tuple(Machine(f"m{n}", 8000 * MEGA, 100e9, 1e12) for n in range(4))
    links = {(a.name, b.name): Link(2e-3, 1e9) for a in machines for b in machines if a is not b}
    problem = Problem(facts, machines, links, Demand(users=4))
    alone = choose(problem, Aim(floor=0))
    best = choose(problem, Aim("throughput"))
    floored = choose(problem, Aim(floor=0.95))
    assert isinstance(alone, OptimizedPlan)
    assert isinstance(best, OptimizedPlan)
    assert isinstance(floored, OptimizedPlan)
    assert len(alone.plan.nodes) == 1
    most = best.prediction.users_tokens_per_second
    assert floored.prediction.users_tokens_per_second >= 0.95 * most * (1 - 1e-6)
    assert floored.prediction.tokens_per_second >= best.prediction.tokens_per_second * 0.98


def test_of_equally_fast_plans_the_most_even_one_is_chosen() -> None:
    """Leaves the tail out, which is the busiest stage because of the vocabulary head."""
    machines = tuple(Machine(f"m{n}", 8000 * MEGA, 100e9, 1e12) for n in range(4))
    aims: tuple[Objective, ...] = ("latency", "throughput")
    for head, aim, users in product((600, 700, 800), aims, (1, 4)):
        problem = Problem(small_model([100] * 20, head), machines, demand=Demand(users=users))
        found = choose(problem, Aim(aim, stages=4))
        assert isinstance(found, OptimizedPlan)
        *others, _ = (b - a for a, b in pairwise(found.plan.bounds))
        assert max(others) - min(others) <= 1, (head, aim, users)


def test_one_machine_is_used_and_noted_when_it_is_faster_alone() -> None:
    machines = tuple(Machine(f"m{n}", 8000 * MEGA, 100e9, 1e12) for n in range(3))
    found = choose(Problem(small_model([100] * 6), machines))
    assert isinstance(found, OptimizedPlan)
    assert found.plan.nodes == (0,)
    assert "alone is faster" in found.prediction.notes[0]


def test_pins_required_machines_and_legal_cuts_hold() -> None:
    machines = tuple(Machine(f"m{n}", 8000 * MEGA, 100e9, 1e12) for n in range(3))
    problem = Problem(
        small_model([100] * 6),
        machines,
        cuts=(2, 4),
        required=frozenset({"m2"}),
        pins={"m2": (0, 2)},
    )
    found = choose(problem)
    assert isinstance(found, OptimizedPlan)
    assert found.plan.nodes[0] == 2
    assert found.plan.bounds == (0, 2, 6)
    wrong = choose(replace(problem, pins={"m2": (0, 3)}))
    assert isinstance(wrong, Infeasible)


def test_the_vocabulary_head_counts_as_several_layers_of_the_embedded_model() -> None:
    machines = tuple(
        Machine(f"m{n}", 10**10, 10e9, 1e11, layer_s=3e-4, full_precision=True) for n in range(2)
    )
    found = choose(Problem(read_facts(EMBEDDED_MODEL), machines), Aim(stages=2))
    assert isinstance(found, OptimizedPlan)
    first = found.plan.bounds[1]
    assert 5 <= first - (30 - first) <= 9
