"""The best plan for a purpose, or what is missing for any."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from pomona_planner import tables
from pomona_planner.predicting import Plan, Prediction, cycle_seconds, lanes_and_rows, predict
from pomona_planner.problem import Machine, Problem
from pomona_planner.search import (
    BEAM,
    MAX_NODES,
    MOST_LABELS,
    TIE,
    Array,
    Costs,
    Found,
    Question,
    cheapest,
)
from pomona_planner.sizes import WORKSPACE_BYTES

Objective = Literal["latency", "throughput"]

BALANCE_SLACK = 0.02
"""Share of one user's speed that may go for a cut that serves many users better."""
CLOSE_ENOUGH = 2e-3
"""Share of the cycle below which halving gives way to one last proof."""
LABELS_OF_A_STEP = MOST_LABELS // 16
LABELS_OF_A_CALL = 2_000
"""What a search costs besides, in labels looked at in that time."""
NARROW_BEAM = 32
MOST_ADDED = 16


@dataclass(frozen=True, slots=True)
class Aim:
    """What a plan is to be best at.

    Attributes:
        objective: ``latency``, the time of one user's token, or ``throughput``, the tokens
            of all promised users together.
        floor: with ``latency``, the share of the best possible throughput that a plan must
            reach.
        stages: exactly so many; 0 for as many as are best.
    """

    objective: Objective = "latency"
    floor: float = 0.25
    stages: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """Attributes:
    machines: those that were considered; the plan's nodes are numbers of them.
    notes: what a person should know of how it came about.
    proven: no other plan is better for the aim.
    """

    plan: Plan
    machines: tuple[Machine, ...]
    prediction: Prediction
    notes: tuple[str, ...]
    proven: bool


@dataclass(frozen=True, slots=True)
class Shortfall:
    """No plan exists.

    Attributes:
        missing_bytes: at least what is missing over all machines; 0 when memory is not what
            is missing.
        remedies: changes under which a plan exists.
    """

    reason: str
    missing_bytes: int
    remedies: tuple[str, ...] = ()


def choose(problem: Problem, aim: Aim = Aim()) -> Choice | Shortfall:
    """The best plan for the aim."""
    problem, notes = _within_limits(problem)
    chooser = _Chooser(problem, aim)
    found = chooser.latency() if aim.objective == "latency" else chooser.throughput()
    if found is None:
        return shortfall(problem, aim)
    plan = chooser.plan(found)
    prediction = predict(problem, plan)
    if not chooser.proven:
        notes.append("the search was ended early: a plan may exist that is a little better")
    notes += chooser.why_so_many(plan, prediction)
    return Choice(plan, problem.machines, prediction, tuple(notes), chooser.proven)


class _Chooser:
    def __init__(self, problem: Problem, aim: Aim) -> None:
        self.problem = problem
        self._aim = aim
        self.allowed = tables.allowed(problem)
        self._one = tables.costs(problem, 1)
        names = [machine.name for machine in problem.machines]
        self.required = frozenset(names.index(name) for name in problem.required if name in names)
        self._users = problem.demand.users
        self._positions = problem.positions()
        self._labels_left = MOST_LABELS if aim.objective == "latency" else 3 * MOST_LABELS
        self.proven = True

    @property
    def is_spent(self) -> bool:
        """Whether so many labels were looked at that it is time to come to an end."""
        return self._labels_left <= 0

    def plan(self, found: Found) -> Plan:
        return Plan(found.nodes, tuple(self._positions[cut] for cut in found.cuts))

    def ask(self, question: Question, labels: int = MOST_LABELS) -> Found | None:
        labels = max(min(labels, self._labels_left), 0)
        answer = cheapest(question, labels, NARROW_BEAM if question.any_will_do else BEAM)
        self._labels_left -= answer.labels + LABELS_OF_A_CALL
        self.proven &= answer.proven or (question.any_will_do and answer.found is not None)
        return answer.found

    def _question(self, stages: int | None = None) -> Question:
        wanted = stages if stages is not None else self._aim.stages or None
        return Question(self._one, self.allowed, stages=wanted, required=self.required)

    # One user ----------------------------------------------------------------------------

    def latency(self) -> Found | None:
        """The quickest for one user that reaches the floor; of equals, the best balanced."""
        found = self.ask(self._question())
        if found is None:
            return None
        floor_s = float("inf")
        if self._users > 1 and self._aim.floor > 0 and not self._reaches_floor_surely(found):
            best = self.throughput()
            assert best is not None
            floor_s = self._cycle(best) / self._aim.floor
            if self._cycle(found) > floor_s:
                found = self._quickest_within(floor_s) or best
        return self._balanced(found, floor_s)

    def _reaches_floor_surely(self, found: Found) -> bool:
        counts = [self._aim.stages] if self._aim.stages else self._counts()
        best_s = min(_Cycle(self, count).least() for count in counts)
        return self._cycle(found) * self._aim.floor <= best_s

    def _quickest_within(self, cycle_s: float) -> Found | None:
        best: Found | None = None
        for count in [self._aim.stages] if self._aim.stages else self._counts():
            cycle = _Cycle(self, count)
            question = replace(
                cycle.question(self._one, cycle_s),
                below=best.cost if best is not None else float("inf"),
                second=cycle.costs,
                second_limit=cycle_s,
            )
            best = self.ask(question) or best
        return best

    def _balanced(self, found: Found, floor_s: float) -> Found:
        """Of plans with these stages in this order, nearly as quick, the best for all users."""
        if len(found.nodes) == 1:
            return found
        limit = found.cost * (1 + BALANCE_SLACK)
        proven, self.proven = self.proven, True
        cycle = _Cycle(self, len(found.nodes), max(self._users, len(found.nodes)))
        better = cycle.in_order_of(found).shortest(cycle.of(found), self._one, limit)
        self.proven = proven
        if better is None or self._cycle(better) > max(floor_s, self._cycle(found)) * (1 + TIE):
            return found
        return better

    # All users ---------------------------------------------------------------------------

    def throughput(self) -> Found | None:
        """The most tokens for all promised users together; of equals, the fewest stages."""
        if self._users == 1:
            return self.ask(self._question())
        best: Found | None = None
        best_s = float("inf")
        counts = [self._aim.stages] if self._aim.stages else self._counts()
        cycles = sorted((_Cycle(self, count) for count in counts), key=lambda c: c.least())
        for cycle in cycles:
            if cycle.least() >= best_s * (1 - TIE):
                break
            if best is not None and self.is_spent:
                self.proven = False
                break
            found = cycle.shortest(best_s)
            if found is not None:
                best, best_s = found, cycle.of(found)
        return best

    def _cycle(self, found: Found) -> float:
        return cycle_seconds(self.problem, self.plan(found), self._users)

    def _counts(self) -> list[int]:
        most = min(len(self.problem.machines), len(self._positions) - 1)
        return list(range(max(1, len(self.required)), most + 1))

    # Words -------------------------------------------------------------------------------

    def why_so_many(self, plan: Plan, prediction: Prediction) -> list[str]:
        """Why one machine, or why several, when both would do."""
        if self._aim.stages or len(self.problem.machines) == 1:
            return []
        used, speed = len(plan.nodes), prediction.tokens_per_second
        if used == 1:
            other = cheapest(self._question(2), LABELS_OF_A_STEP).found
            name = self.problem.machines[plan.nodes[0]].name
            if other is None:
                return [f"{name} holds the model alone"]
            said = f"{name} alone is faster for one user than any two: "
            if speed < 1 / other.cost:
                said = f"{name} alone was chosen: "
            return [said + f"{speed:.1f} tok/s, not {1 / other.cost:.1f}"]
        alone = None if self.required else cheapest(self._question(1), LABELS_OF_A_STEP).found
        if alone is None:
            return []
        name = self.problem.machines[alone.nodes[0]].name
        return [
            f"{name} could hold the model alone, with {1 / alone.cost:.1f} tok/s for one user; "
            f"{used} machines give {speed:.1f}, and {prediction.users_tokens_per_second:.1f} "
            f"for {prediction.users}"
        ]


class _Cycle:
    """Plans of a number of stages, by the time in which all users get a token."""

    def __init__(self, chooser: _Chooser, stages: int, users: int | None = None) -> None:
        problem = chooser.problem
        self._chooser = chooser
        self._stages = stages
        self._lanes, rows = lanes_and_rows(users or problem.demand.users, stages)
        self.costs = tables.costs(problem, rows)
        self._stage = self.costs.stage()
        self._busy = tables.occupancy(problem, rows)
        self._next: Array = np.ones_like(self._busy, dtype=bool)
        self._least: float | None = None

    def of(self, found: Found) -> float:
        ranges = zip(found.nodes, found.cuts[:-1], found.cuts[1:], strict=True)
        longest = max(float(self._stage[n, a, b]) for n, a, b in ranges)
        for a, b in pairwise(found.nodes):
            longest = max(longest, float(self._busy[a, b]))
        whole = self.costs.of(list(found.nodes), list(found.cuts))
        return max(whole, self._lanes * longest)

    def question(self, costs: Costs, cycle_s: float) -> Question:
        """Plans in which no stage and no link is busy for longer than a lane's share."""
        chooser = self._chooser
        longest = cycle_s / self._lanes * (1 + TIE)
        usable = (self._busy <= longest) & self._next
        return Question(
            replace(costs, link=np.where(usable, costs.link, np.inf)),
            chooser.allowed & (self._stage <= longest),
            stages=self._stages,
            required=chooser.required,
        )

    def in_order_of(self, found: Found) -> _Cycle:
        """Consider only plans with the nodes of this one in its order."""
        self._next = np.zeros_like(self._next)
        for a, b in pairwise(found.nodes):
            self._next[a, b] = True
        return self

    def least(self) -> float:
        """No plan has a shorter cycle: the work shared out evenly among the quickest."""
        if self._least is None:
            times = np.diff(self.costs.before, axis=1)
            speeds = 1 / times.sum(axis=1)
            weights = times * speeds[:, None]
            even = weights.min(axis=0).sum()
            quickest = np.sort(speeds)[::-1][: self._stages]
            self._least = float(self._lanes * even / quickest.sum())
        return self._least

    def shortest(
        self, below: float, second: Costs | None = None, second_limit: float = float("inf")
    ) -> Found | None:
        """The plan of the shortest cycle, shorter than ``below``; None when there is none.

        Halving: is there any plan whose cycle is at most t? At the end, a proof that there
        is none shorter.
        """
        low, high = self.least(), below

        def any_within(cycle_s: float) -> Found | None:
            question = replace(
                self.question(self.costs, cycle_s),
                below=cycle_s,
                second=second,
                second_limit=second_limit,
                any_will_do=True,
            )
            return self._chooser.ask(question, LABELS_OF_A_STEP)

        if high == float("inf"):
            widest = 64 * low + 64 * float(self.costs.fixed.max())
            best = any_within(widest) or any_within(float("inf"))
        else:
            best = any_within(high * (1 - 2 * TIE))
        if best is None:
            return None
        high = self.of(best)
        while high > low * (1 + CLOSE_ENOUGH) and not self._chooser.is_spent:
            middle = (low + high) / 2
            found = any_within(middle)
            if found is None:
                low = middle
            else:
                best, high = found, self.of(found)
        while (found := any_within(high * (1 - 2 * TIE))) is not None and not (
            self._chooser.is_spent
        ):
            best, high = found, self.of(found)
        return best


def _within_limits(problem: Problem) -> tuple[Problem, list[str]]:
    """Keep as many machines as can be planned for, those that hold and do most."""
    if len(problem.machines) <= MAX_NODES:
        return problem, []
    order = sorted(
        problem.machines,
        key=lambda m: (m.name not in problem.required, -m.bandwidth * m.memory_bytes, m.name),
    )
    kept = set(order[:MAX_NODES])
    machines = tuple(machine for machine in problem.machines if machine in kept)
    return replace(problem, machines=machines), [
        f"only {MAX_NODES} of {len(problem.machines)} machines were considered"
    ]


# Nothing fits -----------------------------------------------------------------------------


def shortfall(problem: Problem, aim: Aim) -> Shortfall:
    """What is missing, and what would fit."""
    facts, demand = problem.facts, problem.demand
    count = len(problem.machines)
    if not count:
        return Shortfall("there is no machine to plan for", 0)
    if aim.stages > count:
        return Shortfall(f"{aim.stages} stages are wanted, but there are {count} machines", 0)
    if aim.stages > len(problem.positions()) - 1:
        return Shortfall(
            f"{aim.stages} stages are wanted of a model that can be cut into "
            f"{len(problem.positions()) - 1}",
            0,
        )
    needed = float(tables.memory(problem)[:, 0, -1].min()) - WORKSPACE_BYTES
    used = min(aim.stages or count, count)
    rooms = sorted((machine.memory_bytes for machine in problem.machines), reverse=True)[:used]
    usable = sum(max(room - WORKSPACE_BYTES, 0) for room in rooms)
    missing = max(int(needed - usable), 0)
    have = f"{used} machines have {sum(rooms) / 1e9:.1f} GB in all"
    reason = (
        f"{facts.name} does not fit: weights and caches for {demand.users} x {demand.context} "
        f"tokens take {needed / 1e9:.1f} GB, and each stage {WORKSPACE_BYTES / 1e9:.1f} GB of "
        f"workspace, but {have}; "
    )
    reason += (
        f"{missing / 1e9:.1f} GB are missing"
        if missing
        else "no cut into whole layers leaves every machine within its memory"
    )
    return Shortfall(reason, missing, tuple(_remedies(problem, aim)))


def _remedies(problem: Problem, aim: Aim) -> list[str]:
    said: list[str] = []
    demand = problem.demand
    tokens = _largest_context(problem, aim)
    if tokens:
        said.append(
            f"promise {tokens} tokens to {demand.users} users in all"
            if demand.users > 1
            else f"promise {tokens} tokens instead of {demand.context}"
        )
    largest = max(problem.machines, key=lambda machine: machine.memory_bytes)
    for added in range(1, MOST_ADDED - len(problem.machines) + 1):
        more = _with_copies(problem, largest, added)
        if _fits(more, replace(aim, stages=0)):
            plural = "" if added == 1 else "s"
            said.append(
                f"add {added} machine{plural} with {largest.memory_bytes / 1e9:.1f} GB for MLX"
            )
            break
    else:
        said.append("take a smaller model or one of fewer bits")
    return said


def _largest_context(problem: Problem, aim: Aim) -> int:
    """Tokens for each user that would fit; 0 when less than 256 would."""
    low, high = 0, problem.demand.context // 256
    while high - low > 1:
        middle = (low + high) // 2
        demand = replace(problem.demand, context=middle * 256)
        if _fits(replace(problem, demand=demand), aim):
            low = middle
        else:
            high = middle
    return low * 256


def _with_copies(problem: Problem, machine: Machine, count: int) -> Problem:
    copies = tuple(replace(machine, name=f"{machine.name}+{n}") for n in range(count))
    return replace(problem, machines=(*problem.machines, *copies))


def _fits(problem: Problem, aim: Aim) -> bool:
    allowed: Array = tables.allowed(problem)
    question = Question(
        tables.costs(problem, 1), allowed, stages=aim.stages or None, any_will_do=True
    )
    return cheapest(question, LABELS_OF_A_STEP).found is not None
