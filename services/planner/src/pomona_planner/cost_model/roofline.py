"""A problem as the arrays that the search works on: times and memory of every stage."""

from __future__ import annotations

import numpy as np

from pomona.models import LayerFacts
from pomona_planner.cost_model.cost_arrays import Array, Costs
from pomona_planner.cost_model.memory import (
    FULL_CACHE_SHARE,
    WORKSPACE_BYTES,
    active_bytes,
    cache_bytes_per_sequence,
    cache_bytes_per_token,
    value_bits,
)
from pomona_planner.cost_model.problem import Machine, Problem

DRAWING_LAYERS = 5
"""The tail also norms, draws and answers: as many small kernels as so many layers have."""
TOKEN_BYTES = 400
"""The message with which the tail tells the head a token."""


def part_seconds(
    part: LayerFacts, machine: Machine, rows: int, tokens: int, cached: int, cache_bits: int
) -> float:
    """Time of a layer, or of the vocabulary head, in one step.

    The roofline (S. Williams et al. 2009): reading weights and caches or multiplying,
    whichever takes longer; then the kernels' own time.

    Args:
        rows: sequences in the step, each with ``tokens`` tokens and ``cached`` in its cache.
    """
    whole = machine.whole_precision
    held = min(cached, part.window) if part.window else cached
    cache = rows * (held * part.kv_values_per_token + part.state_values)
    read = active_bytes(part, rows * tokens, whole) + cache * value_bits(whole, cache_bits) / 8
    multiplied = 2.0 * part.active_parameters * rows * tokens
    multiplied += 2.0 * rows * tokens * held * part.kv_values_per_token
    return max(read / machine.bandwidth, multiplied / machine.compute)


def costs(problem: Problem, rows: int, tokens: int = 1) -> Costs:
    """Seconds of a step of ``rows`` sequences, each with ``tokens`` new tokens."""
    facts, demand, positions = problem.facts, problem.demand, problem.positions()
    machines = problem.machines
    layers = list(dict.fromkeys(facts.layers))
    number = {layer: index for index, layer in enumerate(layers)}
    which = np.array([number[layer] for layer in facts.layers])
    kinds: dict[Machine, tuple[Array, float]] = {}

    def times(machine: Machine) -> tuple[Array, float]:
        arguments = (rows, tokens, demand.cached_tokens, demand.cache_bits)
        each = np.array([part_seconds(layer, machine, *arguments) for layer in layers])
        # Only the last token of a prompt needs the vocabulary.
        head = part_seconds(facts.head, machine, rows, 1, 0, 0)
        head += DRAWING_LAYERS * machine.layer_s
        return np.cumsum(each[which] + machine.layer_s), head

    before = np.zeros((len(machines), len(positions)))
    last = np.zeros(len(machines))
    for index, machine in enumerate(machines):
        if machine not in kinds:
            kinds[machine] = times(machine)
        whole, head = kinds[machine]
        before[index] = np.concatenate(([0.0], whole))[list(positions)] * machine.correction
        last[index] = head * machine.correction * machine.tail_correction
    return Costs(
        fixed=np.array([machine.step_s * machine.correction for machine in machines]),
        before=before,
        last=last,
        link=_link_seconds(problem, rows * tokens * row_bytes(problem)),
        back=_link_seconds(problem, rows * TOKEN_BYTES),
    )


def row_bytes(problem: Problem) -> int:
    """What crosses a link for one token: its activations."""
    whole = any(machine.whole_precision for machine in problem.machines)
    return problem.facts.hidden_size * (4 if whole else 2)


def _link_seconds(problem: Problem, size: float) -> Array:
    made = np.zeros((len(problem.machines), len(problem.machines)))
    for a, sender in enumerate(problem.machines):
        for b, receiver in enumerate(problem.machines):
            if a != b:
                link = problem.link(sender.name, receiver.name)
                made[a, b] = link.latency_s + size / link.bandwidth
    return made


def occupancy(problem: Problem, rows: int) -> Array:
    """(N, N) seconds for which a step's activations fill the link between two machines."""
    size = rows * row_bytes(problem)
    made = np.zeros((len(problem.machines), len(problem.machines)))
    for a, sender in enumerate(problem.machines):
        for b, receiver in enumerate(problem.machines):
            if a != b:
                made[a, b] = size / problem.link(sender.name, receiver.name).bandwidth
    return made


def memory(problem: Problem) -> Array:
    """(N, P, P) bytes that a stage needs for weights, promised caches and workspace."""
    return _memory_of_kinds(problem)[[int(m.whole_precision) for m in problem.machines]]


def allowed(problem: Problem) -> Array:
    """(N, P, P) whether a machine may hold a stage: it fits, and no pin forbids it."""
    positions = problem.positions()
    room = np.array([machine.memory_bytes for machine in problem.machines])
    fits = memory(problem) <= room[:, None, None]
    fits &= np.triu(np.ones((len(positions), len(positions)), dtype=bool), 1)
    for index, machine in enumerate(problem.machines):
        pin = problem.pins.get(machine.name)
        if pin is None:
            continue
        only = np.zeros_like(fits[index])
        if pin[0] in positions and pin[1] in positions:
            only[positions.index(pin[0]), positions.index(pin[1])] = True
        fits[index] &= only
    return fits


def _memory_of_kinds(problem: Problem) -> Array:
    """(2, P, P): with half, and with whole precision."""
    facts, demand, positions = problem.facts, problem.demand, list(problem.positions())
    count = len(positions)
    made = np.zeros((2, count, count))
    tokens = demand.context * demand.users
    layers = range(facts.layer_count)
    for whole in (False, True):
        bits = demand.cache_bits
        weights = [4 * x.parameters if whole else x.stored_bytes for x in facts.layers]
        caches = [
            tokens * cache_bytes_per_token(facts, i, i + 1, whole, bits)
            + demand.users * cache_bytes_per_sequence(facts, i, i + 1, whole, bits)
            for i in layers
        ]
        each = np.array(weights) + np.array(caches) / FULL_CACHE_SHARE
        sums = np.concatenate(([0.0], np.cumsum(each)))[positions]
        held = sums[None, :] - sums[:, None] + WORKSPACE_BYTES
        first = 4 * facts.embedding.parameters if whole else facts.embedding.stored_bytes
        head = 4 * facts.head.parameters if whole else facts.head.stored_bytes
        held[0, :] += first
        held[:, -1] += head
        if facts.tied_embedding:
            held[0, -1] -= head
        made[int(whole)] = held
    return made
