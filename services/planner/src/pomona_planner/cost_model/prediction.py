"""Prediction of a plan: speed, time to first token, cache room and energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from pomona.messages.control import Prediction
from pomona.models import ModelFacts
from pomona.models.draft_models import DRAFT_CONTEXT
from pomona_planner.cost_model.cost_arrays import Costs, link_occupancy, step_costs
from pomona_planner.cost_model.memory import cache_tokens, draft_bytes
from pomona_planner.cost_model.problem import Demand, Machine, Problem
from pomona_planner.cost_model.roofline import read_seconds
from pomona_planner.cost_model.running_costs import joules_per_token
from pomona_planner.cost_model.speculation import USUAL_ACCEPTANCE, guessed_tokens_per_second

PREFILL_CHUNK = 512
"""Prompt tokens of one prefill chunk."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Assignment of layers: stage i holds ``[bounds[i], bounds[i + 1])`` on node ``nodes[i]``.

    Attributes:
        nodes: indices into the machines of the problem, from head to tail.
        bounds: layer indices from 0 to the layer count.
    """

    nodes: tuple[int, ...]
    bounds: tuple[int, ...]

    def stages(self) -> list[tuple[int, int, int]]:
        """Returns (node, start, stop) of each stage."""
        return list(zip(self.nodes, self.bounds[:-1], self.bounds[1:], strict=True))


def lanes_and_rows(users: int, stages: int) -> tuple[int, int]:
    """Returns the lanes in flight and the sequences of each, as the head forms them."""
    lanes = min(users, stages)
    return lanes, ceil(users / lanes)


def cycle_seconds(problem: Problem, plan: Plan, users: int) -> float:
    """Computes the time in which each of ``users`` gets a token.

    It is the time round the pipeline, or the busiest stage or link once for each lane,
    whichever is longer.
    """
    lanes, rows = lanes_and_rows(users, len(plan.nodes))
    stages, links = _stage_and_link_seconds(problem, plan, step_costs(problem, rows))
    occupancy = link_occupancy(problem, rows)
    transfers = [float(occupancy[a, b]) for a, b in pairwise(plan.nodes)]
    return max(sum(stages) + sum(links), lanes * max([*stages, *transfers]))


def predict(problem: Problem, plan: Plan) -> Prediction:
    """Predicts a plan that fits.

    ``link_correction`` and ``notes`` keep their defaults, since the problem has neither.
    """
    demand = problem.demand
    costs = step_costs(problem, 1)
    stages, links = _stage_and_link_seconds(problem, plan, costs)
    cycle_s = cycle_seconds(problem, plan, demand.users)
    lanes, rows = lanes_and_rows(demand.users, len(plan.nodes))
    batch_stages, _ = _stage_and_link_seconds(problem, plan, step_costs(problem, rows))
    machines = [problem.machines[node] for node in plan.nodes]
    guess_s = _guess_seconds(problem, machines[0])
    acceptance = problem.acceptance
    if acceptance is None:
        acceptance = 0.0 if problem.draft is None else USUAL_ACCEPTANCE
    return Prediction(
        tokens_per_second=1 / (sum(stages) + sum(links)),
        ceiling_tokens_per_second=1 / _reading_seconds(problem, plan),
        users=demand.users,
        users_tokens_per_second=demand.users / cycle_s,
        prompt_tokens=demand.prompt_tokens,
        first_token_s=_first_token_seconds(problem, plan),
        cache_tokens=_cache_tokens(problem, plan),
        stage_us=tuple(seconds * 1e6 for seconds in stages),
        tail_us=float(costs.last[plan.nodes[-1]]) * 1e6,
        link_us=tuple(seconds * 1e6 for seconds in links),
        corrections=tuple(machine.correction for machine in machines),
        tail_correction=machines[-1].tail_correction,
        joules_per_token=joules_per_token(
            zip(machines, batch_stages, strict=True), lanes, cycle_s, demand.users
        ),
        acceptance=acceptance,
        guess_us=guess_s * 1e6,
        guessed_tokens_per_second=guessed_tokens_per_second(stages, links, acceptance, guess_s)
        if acceptance
        else 0.0,
    )


def nominal_ceiling(facts: ModelFacts, bounds: Sequence[int], bandwidths: Sequence[float]) -> float:
    """Computes the tokens per second of one user if each active weight were only read once.

    Args:
        bounds: layer indices of the stages, as in ``Plan``.
        bandwidths: nominal memory bandwidth of each stage's machine, bytes per second.
    """
    seconds = 0.0
    for (start, stop), bandwidth in zip(pairwise(bounds), bandwidths, strict=True):
        read = sum(layer.active_bytes for layer in facts.layers[start:stop])
        read += facts.head.active_bytes if stop == facts.layer_count else 0
        seconds += read / bandwidth
    return 1 / seconds


def _reading_seconds(problem: Problem, plan: Plan) -> float:
    """Returns the time to read each active weight once, at the measured bandwidths."""
    facts = problem.facts
    total = 0.0
    for node, start, stop in plan.stages():
        machine = problem.machines[node]
        read = sum(read_seconds(part, machine, 1) for part in facts.layers[start:stop])
        # A factor below 1 means that memory is faster than it was measured.
        total += read * min(machine.correction, 1.0)
        if stop == facts.layer_count:
            correction = machine.correction * machine.tail_correction
            total += read_seconds(facts.head, machine, 1) * min(correction, 1.0)
    return total


def _cache_tokens(problem: Problem, plan: Plan) -> int:
    """Returns the tokens that fit into the caches of the tightest stage, all users together."""
    demand = problem.demand
    tokens: list[int] = []
    for node, start, stop in plan.stages():
        machine = problem.machines[node]
        memory = machine.memory_bytes
        if start == 0 and problem.draft is not None:
            memory -= draft_bytes(problem.draft, machine.full_precision)
        tokens.append(
            cache_tokens(
                problem.facts,
                start,
                stop,
                memory,
                machine.full_precision,
                demand.cache_bits,
                demand.users,
            )
        )
    return max(min(tokens), 0)


def _guess_seconds(problem: Problem, head: Machine) -> float:
    """Returns the time of a token of the draft model on the head; 0 without one."""
    if problem.draft is None:
        return 0.0
    alone = Problem(problem.draft, (head,), demand=Demand(context=DRAFT_CONTEXT), cuts=())
    return float(step_costs(alone, 1).stage[0, 0, -1])


def _first_token_seconds(problem: Problem, plan: Plan) -> float:
    """Returns the time of the prompt's prefill chunks, which follow each other closely.

    The first chunk passes all stages and links; each later one adds the time of the slowest.
    """
    prompt = problem.demand.prompt_tokens
    chunks = ceil(prompt / PREFILL_CHUNK)
    costs = step_costs(problem, 1, ceil(prompt / chunks))
    stages, links = _stage_and_link_seconds(problem, plan, costs)
    return sum(stages) + sum(links) + (chunks - 1) * max([*stages, *links])


def _stage_and_link_seconds(
    problem: Problem, plan: Plan, costs: Costs
) -> tuple[list[float], list[float]]:
    """Returns the time of each stage and of each link; the link to the head is last."""
    positions = problem.positions()
    stages = [
        float(costs.stage[node, positions.index(start), positions.index(stop)])
        for node, start, stop in plan.stages()
    ]
    links = [float(costs.link[a, b]) for a, b in pairwise(plan.nodes)]
    if links:
        links.append(float(costs.back[plan.nodes[-1], plan.nodes[0]]))
    return stages, links
