"""What a plan will do: speed, first token, memory left, energy."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from pomona_planner.cost_model.cost_arrays import Costs
from pomona_planner.cost_model.memory import active_bytes, cache_tokens
from pomona_planner.cost_model.problem import Problem
from pomona_planner.cost_model.roofline import costs, occupancy

CHUNK = 512
"""Prompt tokens that go through the stages as one step."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Stage i is layers ``[bounds[i], bounds[i + 1])`` on machine ``nodes[i]`` of the problem."""

    nodes: tuple[int, ...]
    bounds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What to expect of a plan.

    Attributes:
        tokens_per_second: of one user alone.
        ceiling_tokens_per_second: the same, were nothing done but reading each active
            weight once.
        users: requests at once that ``users_tokens_per_second`` is for, all together.
        first_token_s: from a prompt of ``prompt_tokens`` to its first token.
        cache_tokens: that fit into the tightest stage, all requests together.
        stage_s: each stage's part of one user's token, seconds.
        tail_s: what of the last one's the vocabulary head and the draw take.
        link_s: each link's, the way back last.
        watts: of all machines in the plan, when ``users`` are served; 0 when unknown.
        joules_per_token: the same for each token.
    """

    tokens_per_second: float
    ceiling_tokens_per_second: float
    users: int
    users_tokens_per_second: float
    prompt_tokens: int
    first_token_s: float
    cache_tokens: int
    stage_s: tuple[float, ...]
    tail_s: float
    link_s: tuple[float, ...]
    watts: float
    joules_per_token: float


def lanes_and_rows(users: int, stages: int) -> tuple[int, int]:
    """Lanes that travel the pipeline, and sequences in each: as the head forms them."""
    lanes = min(users, stages)
    return lanes, ceil(users / lanes)


def cycle_seconds(problem: Problem, plan: Plan, users: int) -> float:
    """Time in which each of ``users`` gets a token: the way round, or the busiest stage or
    link once for every lane, whichever is longer."""
    lanes, rows = lanes_and_rows(users, len(plan.nodes))
    stages, links = _parts(problem, plan, costs(problem, rows))
    busy = occupancy(problem, rows)
    crossings = [busy[a, b] for a, b in zip(plan.nodes[:-1], plan.nodes[1:], strict=True)]
    return max(sum(stages) + sum(links), lanes * max([*stages, *crossings]))


def predict(problem: Problem, plan: Plan) -> Prediction:
    """What to expect of a plan that fits."""
    facts, demand = problem.facts, problem.demand
    made = costs(problem, 1)
    stages, links = _parts(problem, plan, made)
    cycle = cycle_seconds(problem, plan, demand.users)
    ranges = list(zip(plan.nodes, plan.bounds[:-1], plan.bounds[1:], strict=True))
    reading = 0.0
    for node, start, stop in ranges:
        machine = problem.machines[node]
        whole = machine.whole_precision
        read = sum(active_bytes(part, 1, whole) for part in facts.layers[start:stop])
        # Where steps take less than was expected, memory is faster than it was measured.
        reading += read / machine.bandwidth * min(machine.correction, 1.0)
        if stop == facts.layer_count:
            correction = machine.correction * machine.tail_correction
            read = active_bytes(facts.head, 1, whole)
            reading += read / machine.bandwidth * min(correction, 1.0)
    lanes, rows = lanes_and_rows(demand.users, len(plan.nodes))
    busy_s, _ = _parts(problem, plan, costs(problem, rows))
    watts = 0.0
    for node, seconds in zip(plan.nodes, busy_s, strict=True):
        machine = problem.machines[node]
        share = min(lanes * seconds / cycle, 1.0)
        watts += machine.idle_watts + share * (machine.busy_watts - machine.idle_watts)
    return Prediction(
        tokens_per_second=1 / (sum(stages) + sum(links)),
        ceiling_tokens_per_second=1 / reading,
        users=demand.users,
        users_tokens_per_second=demand.users / cycle,
        prompt_tokens=demand.prompt_tokens,
        first_token_s=_first_token_s(problem, plan),
        cache_tokens=min(
            cache_tokens(
                facts,
                start,
                stop,
                problem.machines[node].memory_bytes,
                problem.machines[node].whole_precision,
                demand.cache_bits,
                demand.users,
            )
            for node, start, stop in ranges
        ),
        stage_s=tuple(stages),
        tail_s=float(made.last[plan.nodes[-1]]),
        link_s=tuple(links),
        watts=watts,
        joules_per_token=watts * cycle / demand.users,
    )


def _first_token_s(problem: Problem, plan: Plan) -> float:
    """Chunks follow each other: the first passes all stages, the others wait for the slowest."""
    prompt = problem.demand.prompt_tokens
    chunks = ceil(prompt / CHUNK)
    stages, links = _parts(problem, plan, costs(problem, 1, ceil(prompt / chunks)))
    return sum(stages) + sum(links) + (chunks - 1) * max([*stages, *links])


def _parts(problem: Problem, plan: Plan, made: Costs) -> tuple[list[float], list[float]]:
    """(each stage's time, each link's and then the way back's)."""
    positions = problem.positions()
    stage = made.stage
    cuts = [positions.index(bound) for bound in plan.bounds]
    stages = [
        float(stage[node, a, b]) for node, a, b in zip(plan.nodes, cuts[:-1], cuts[1:], strict=True)
    ]
    links = [float(made.link[a, b]) for a, b in zip(plan.nodes[:-1], plan.nodes[1:], strict=True)]
    if links:
        links.append(float(made.back[plan.nodes[-1], plan.nodes[0]]))
    return stages, links
