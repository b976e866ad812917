"""Memory of a stage, and which stages fit on which machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pomona.messages.control import StageWorkerFacts
from pomona.models import ModelFacts
from pomona.models.draft_models import DRAFT_CONTEXT, DRAFT_SEQUENCES
from pomona_planner.cost_model.problem import Problem

WORKSPACE_BYTES = 256 << 20
"""Memory of activations, buffers and the process itself, where no worker has measured more."""
FULL_CACHE_SHARE = 0.8
"""Share of the remaining memory that caches may fill; padding and growth take the rest."""
UNBOUNDED = 2**40
"""Token count reported for caches that do not grow with their tokens."""


def usable_bytes(facts: StageWorkerFacts) -> int:
    """Returns a worker's memory, less the measured workspace beyond ``WORKSPACE_BYTES``."""
    measured = max((stage.workspace_bytes for stage in facts.stages), default=0)
    return max(0, facts.usable_memory_bytes - max(0, measured - WORKSPACE_BYTES))


def weight_bytes(facts: ModelFacts, start: int, stop: int, full_precision: bool) -> int:
    """Returns the bytes of a stage's weights, layers ``[start, stop)``."""
    parts = list(facts.layers[start:stop])
    if start == 0:
        parts.append(facts.embedding)
    if stop == facts.layer_count and not (facts.tied_embedding and start == 0):
        parts.append(facts.head)
    return sum(4 * part.parameters if full_precision else part.stored_bytes for part in parts)


def bits_per_value(full_precision: bool, cache_bits: int) -> int:
    """Returns the bits of one cached number; a quantised one takes an extra bit for scales."""
    return cache_bits + 1 if cache_bits else (32 if full_precision else 16)


def cache_bytes_per_token(
    facts: ModelFacts, start: int, stop: int, full_precision: bool, cache_bits: int
) -> float:
    """Returns the bytes that each token adds to the caches of layers ``[start, stop)``."""
    values = sum(x.kv_values_per_token for x in facts.layers[start:stop] if not x.window)
    return values * bits_per_value(full_precision, cache_bits) / 8


def cache_bytes_per_sequence(
    facts: ModelFacts, start: int, stop: int, full_precision: bool, cache_bits: int
) -> float:
    """Returns the bytes that each sequence takes whatever its length.

    These are sliding windows and recurrent states.
    """
    layers = facts.layers[start:stop]
    windows = sum(layer.window * layer.kv_values_per_token for layer in layers)
    states = sum(layer.state_values for layer in layers)
    state_bits = 32 if full_precision else 16
    return windows * bits_per_value(full_precision, cache_bits) / 8 + states * state_bits / 8


def draft_bytes(draft: ModelFacts, full_precision: bool) -> int:
    """Returns the bytes of a draft model's weights and caches, on the head."""
    count = draft.layer_count
    per_token = cache_bytes_per_token(draft, 0, count, full_precision, 0)
    per_sequence = cache_bytes_per_sequence(draft, 0, count, full_precision, 0)
    caches = DRAFT_SEQUENCES * (2 * DRAFT_CONTEXT * per_token + per_sequence)
    return weight_bytes(draft, 0, count, full_precision) + int(caches)


def cache_tokens(
    facts: ModelFacts,
    start: int,
    stop: int,
    memory_bytes: int,
    full_precision: bool,
    cache_bits: int = 0,
    users: int = 1,
) -> int:
    """Returns how many tokens fit beside a stage's weights; -1 when the weights do not fit."""
    left = memory_bytes - WORKSPACE_BYTES
    left -= weight_bytes(facts, start, stop, full_precision)
    room = left * FULL_CACHE_SHARE
    room -= users * cache_bytes_per_sequence(facts, start, stop, full_precision, cache_bits)
    if left < 0 or room < 0:
        return -1
    per_token = cache_bytes_per_token(facts, start, stop, full_precision, cache_bits)
    return min(int(room / per_token), UNBOUNDED) if per_token else UNBOUNDED


def stage_bytes(problem: Problem) -> NDArray[np.float64]:
    """Returns (N, P, P): bytes of each stage's weights, caches for the demand, and workspace."""
    by_precision = np.stack([_stage_bytes(problem, full) for full in (False, True)])
    return by_precision[[int(machine.full_precision) for machine in problem.machines]]


def allowed_stages(problem: Problem) -> NDArray[np.bool_]:
    """Returns (N, P, P): whether a stage fits on a machine and no pin forbids it."""
    positions = problem.positions()
    memory = np.array([machine.memory_bytes for machine in problem.machines])
    allowed = stage_bytes(problem) <= memory[:, None, None]
    allowed &= np.triu(np.ones((len(positions), len(positions)), dtype=bool), 1)
    for index, machine in enumerate(problem.machines):
        pin = problem.pins.get(machine.name)
        if pin is None:
            continue
        pinned = np.zeros_like(allowed[index])
        if pin[0] in positions and pin[1] in positions:
            pinned[positions.index(pin[0]), positions.index(pin[1])] = True
        allowed[index] &= pinned
    return allowed


def _stage_bytes(problem: Problem, full_precision: bool) -> NDArray[Any]:
    """Returns (P, P) by start and stop position."""
    facts, demand, positions = problem.facts, problem.demand, list(problem.positions())
    tokens, bits = demand.context * demand.users, demand.cache_bits
    weights = [4 * x.parameters if full_precision else x.stored_bytes for x in facts.layers]
    caches = [
        tokens * cache_bytes_per_token(facts, i, i + 1, full_precision, bits)
        + demand.users * cache_bytes_per_sequence(facts, i, i + 1, full_precision, bits)
        for i in range(facts.layer_count)
    ]
    layers = np.array(weights) + np.array(caches) / FULL_CACHE_SHARE
    before = np.concatenate(([0.0], np.cumsum(layers)))[positions]
    total = before[None, :] - before[:, None] + WORKSPACE_BYTES
    embedding, head = facts.embedding, facts.head
    embedding_bytes = 4 * embedding.parameters if full_precision else embedding.stored_bytes
    head_bytes = 4 * head.parameters if full_precision else head.stored_bytes
    total[0, :] += embedding_bytes
    total[:, -1] += head_bytes
    if facts.tied_embedding:
        total[0, -1] -= head_bytes
    if problem.draft is not None:
        total[0, :] += draft_bytes(problem.draft, full_precision)
    return total
