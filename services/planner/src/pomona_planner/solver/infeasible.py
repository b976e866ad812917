"""When nothing fits: how much is missing, and what would fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from pomona_planner.cost_model import roofline
from pomona_planner.cost_model.memory import WORKSPACE_BYTES
from pomona_planner.cost_model.problem import Aim, Machine, Problem
from pomona_planner.solver.query import MAX_NODES, SolverQuery
from pomona_planner.solver.search import solve

LABELS_OF_A_TRY = 50_000
MOST_ADDED = 16


@dataclass(frozen=True, slots=True)
class Infeasible:
    """No plan exists.

    Attributes:
        missing_bytes: at least what is missing over all machines; 0 when memory is not what
            is missing.
        remedies: changes under which a plan exists.
    """

    reason: str
    missing_bytes: int
    remedies: tuple[str, ...] = ()


def shortfall(problem: Problem, aim: Aim, proven: bool) -> Infeasible:
    """What is missing, and what would fit. Args: proven: that no plan exists."""
    facts, demand = problem.facts, problem.demand
    count = len(problem.machines)
    if not count:
        return Infeasible("there is no machine to plan for", 0)
    parts = len(problem.positions()) - 1
    if aim.stages > min(count, parts):
        there = "there is 1 machine" if count == 1 else f"there are {count} machines"
        reason = (
            f"{aim.stages} stages are wanted, but {there}"
            if aim.stages > count
            else f"{aim.stages} stages are wanted of a model that can be cut into {parts}"
        )
        return Infeasible(reason, 0, (f"ask for {min(count, parts)} at most",))
    wrong = _wrong_pin(problem)
    if wrong:
        return Infeasible(wrong, 0, ("change POMONA_PLANNER_PINS",))
    needed = float(roofline.memory(problem)[:, 0, -1].min()) - WORKSPACE_BYTES
    used = min(aim.stages or count, count)
    rooms = sorted((machine.memory_bytes for machine in problem.machines), reverse=True)[:used]
    usable = sum(max(room - WORKSPACE_BYTES, 0) for room in rooms)
    missing = max(int(needed - usable), 0)
    have = f"{used} machines have" if used > 1 else "the one machine has"
    have += f" {sum(rooms) / 1e9:.1f} GB for MLX"
    reason = (
        f"{facts.name} does not fit: weights and caches for {demand.users} x {demand.context} "
        f"tokens take {needed / 1e9:.1f} GB, and each stage {WORKSPACE_BYTES / 1e9:.1f} GB of "
        f"workspace, but {have}; "
    )
    reason += (
        f"{missing / 1e9:.1f} GB are missing"
        if missing
        else "no cut into whole layers leaves every machine within its memory"
        if proven
        else "no cut into whole layers was found that leaves every machine within its memory"
    )
    return Infeasible(reason, missing, tuple(_remedies(problem, aim)))


def _wrong_pin(problem: Problem) -> str:
    """Why a pin cannot be kept, whatever the other machines do; empty when each can be."""
    positions, count = problem.positions(), problem.facts.layer_count
    room = roofline.memory(problem)
    for index, machine in enumerate(problem.machines):
        if machine.name not in problem.pins:
            continue
        start, stop = problem.pins[machine.name]
        said = f"{machine.name} is pinned to layers {start}..{stop} of {problem.facts.name}"
        if stop > count:
            return f"{said}, which has {count} layers"
        for cut in (start, stop):
            if cut not in positions:
                return f"{said}, which cannot be cut before layer {cut}"
        needed = room[index, positions.index(start), positions.index(stop)]
        if needed > machine.memory_bytes:
            return (
                f"{said}, which take {needed / 1e9:.1f} of its {machine.memory_bytes / 1e9:.1f} GB"
            )
    ranges = sorted((pin, name) for name, pin in problem.pins.items())
    for (one, a), (other, b) in pairwise(ranges):
        if other[0] < one[1]:
            return f"{a} and {b} are both pinned to layer {other[0]} of {problem.facts.name}"
    if problem.pins and not _fits(replace(problem, pins={}), Aim()):
        return ""
    if problem.pins:
        names = ", ".join(sorted(problem.pins))
        return f"{problem.facts.name} fits, but not with the layers that are pinned to {names}"
    return ""


def _remedies(problem: Problem, aim: Aim) -> list[str]:
    said = _promises(problem, aim)
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


def _promises(problem: Problem, aim: Aim) -> list[str]:
    """Fewer tokens for each user, or fewer users, that would fit."""
    demand = problem.demand

    def fits(users: int, context: int) -> bool:
        return _fits(replace(problem, demand=replace(demand, users=users, context=context)), aim)

    said: list[str] = []
    tokens = 256 * _largest(lambda n: fits(demand.users, n * 256), demand.context // 256)
    if tokens:
        each = "each user" if demand.users > 1 else "the user"
        said.append(f"promise {tokens} tokens to {each} instead of {demand.context}")
    users = _largest(lambda n: fits(n, demand.context), demand.users)
    if users:
        said.append(f"promise that to {users} users instead of {demand.users}")
    return said


def _largest(fits: Callable[[int], bool], below: int) -> int:
    """The largest number below one that fits; 0 when none does."""
    low, high = 0, below
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
    allowed = roofline.allowed(problem)
    fewest, most = (aim.stages, aim.stages) if aim.stages else (1, MAX_NODES)
    question = SolverQuery(roofline.costs(problem, 1), allowed, fewest, most, any_will_do=True)
    return solve(question, LABELS_OF_A_TRY).found is not None
