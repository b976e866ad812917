"""Explanation when no plan exists: how much is missing, and which changes would help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from pomona_planner.cost_model.cost_arrays import step_costs
from pomona_planner.cost_model.memory import WORKSPACE_BYTES, allowed_stages, stage_bytes
from pomona_planner.cost_model.problem import Aim, Machine, Problem
from pomona_planner.solver.query import MAX_NODES, SolverQuery
from pomona_planner.solver.search import solve

LABELS_PER_TRY = 50_000
MAX_MACHINES = 16
"""Maximum size of a cluster that a remedy proposes."""


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Result when no plan exists.

    Attributes:
        missing_bytes: lower bound on the missing memory over all machines; 0 when memory is
            not the reason.
        remedies: changes under which a plan exists.
    """

    reason: str
    missing_bytes: int
    remedies: tuple[str, ...] = ()


def explain_infeasible(problem: Problem, aim: Aim, proven: bool) -> Infeasible:
    """Finds the reason and the remedies.

    Args:
        proven: whether the search was complete; if not, a plan may exist after all.
    """
    count, parts = len(problem.machines), len(problem.positions()) - 1
    if not count:
        return Infeasible("there is no machine to plan for", 0)
    if aim.stages > min(count, parts):
        present = "there is 1 machine" if count == 1 else f"there are {count} machines"
        reason = (
            f"{aim.stages} stages were requested, but {present}"
            if aim.stages > count
            else f"{aim.stages} stages were requested, but the model can be cut into {parts}"
        )
        return Infeasible(reason, 0, (f"request {min(count, parts)} at most",))
    reason = _impossible_pin(problem)
    if reason:
        return Infeasible(reason, 0, ("change POMONA_PLANNER_PINS",))
    return _explain_memory(problem, aim, proven)


def _explain_memory(problem: Problem, aim: Aim, proven: bool) -> Infeasible:
    facts, demand = problem.facts, problem.demand
    used = aim.stages or len(problem.machines)
    largest = sorted((machine.memory_bytes for machine in problem.machines), reverse=True)[:used]
    usable = sum(max(memory - WORKSPACE_BYTES, 0) for memory in largest)
    needed = float(stage_bytes(problem)[:, 0, -1].min()) - WORKSPACE_BYTES
    missing = max(int(needed - usable), 0)
    machines = f"{used} machines have" if used > 1 else "the one machine has"
    if missing:
        cause = f"{missing / 1e9:.1f} GB are missing"
    elif proven:
        cause = "no cut into whole layers leaves every machine within its memory"
    else:
        cause = "no cut into whole layers was found that leaves every machine within its memory"
    reason = (
        f"{facts.name} does not fit: weights and caches for {demand.users} x {demand.context} "
        f"tokens take {needed / 1e9:.1f} GB, and each stage {WORKSPACE_BYTES / 1e9:.1f} GB of "
        f"workspace, but {machines} {sum(largest) / 1e9:.1f} GB for MLX; {cause}"
    )
    return Infeasible(reason, missing, tuple(_remedies(problem, aim)))


def _impossible_pin(problem: Problem) -> str:
    """Explains why the pins cannot be kept; empty when they can or are not the reason."""
    positions, count = problem.positions(), problem.facts.layer_count
    memory = stage_bytes(problem)
    for index, machine in enumerate(problem.machines):
        if machine.name not in problem.pins:
            continue
        start, stop = problem.pins[machine.name]
        pin = f"{machine.name} is pinned to layers {start}..{stop} of {problem.facts.name}"
        if stop > count:
            return f"{pin}, which has {count} layers"
        for cut in (start, stop):
            if cut not in positions:
                return f"{pin}, which cannot be cut before layer {cut}"
        needed = memory[index, positions.index(start), positions.index(stop)]
        if needed > machine.memory_bytes:
            return (
                f"{pin}, which take {needed / 1e9:.1f} of its {machine.memory_bytes / 1e9:.1f} GB"
            )
    ranges = sorted((pin, name) for name, pin in problem.pins.items())
    for (one, a), (other, b) in pairwise(ranges):
        if other[0] < one[1]:
            return f"{a} and {b} are both pinned to layer {other[0]} of {problem.facts.name}"
    if problem.pins and _fits(replace(problem, pins={}), Aim()):
        names = ", ".join(sorted(problem.pins))
        return f"{problem.facts.name} fits, but not with the layers that are pinned to {names}"
    return ""


def _remedies(problem: Problem, aim: Aim) -> list[str]:
    remedies = _smaller_demands(problem, aim)
    largest = max(problem.machines, key=lambda machine: machine.memory_bytes)
    for added in range(1, MAX_MACHINES - len(problem.machines) + 1):
        if _fits(_with_copies(problem, largest, added), replace(aim, stages=0)):
            plural = "" if added == 1 else "s"
            memory = f"{largest.memory_bytes / 1e9:.1f} GB for MLX"
            return [*remedies, f"add {added} machine{plural} with {memory}"]
    return [*remedies, "use a smaller model or a quantisation with fewer bits"]


def _smaller_demands(problem: Problem, aim: Aim) -> list[str]:
    """Returns the largest context and the most users that would fit, as remedies."""
    demand = problem.demand

    def fits(users: int, context: int) -> bool:
        return _fits(replace(problem, demand=replace(demand, users=users, context=context)), aim)

    remedies: list[str] = []
    tokens = 256 * _largest(lambda n: fits(demand.users, n * 256), demand.context // 256)
    if tokens:
        each = "each user" if demand.users > 1 else "the user"
        remedies.append(f"promise {tokens} tokens to {each} instead of {demand.context}")
    users = _largest(lambda n: fits(n, demand.context), demand.users)
    if users:
        remedies.append(f"serve at most {users} users instead of {demand.users}")
    return remedies


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """Returns the largest number below ``limit`` that fits; 0 when none does."""
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def _with_copies(problem: Problem, machine: Machine, count: int) -> Problem:
    copies = tuple(replace(machine, name=f"{machine.name}+{n}") for n in range(count))
    return replace(problem, machines=(*problem.machines, *copies))


def _fits(problem: Problem, aim: Aim) -> bool:
    limits = (aim.stages, aim.stages) if aim.stages else (1, MAX_NODES)
    query = SolverQuery(
        step_costs(problem, 1), allowed_stages(problem), *limits, stop_at_first=True
    )
    return solve(query, LABELS_PER_TRY).solution is not None
