"""Where to cut a model: contiguous ranges that balance time, within each worker's memory.

Decoding reads every weight of a stage once a token, so a stage's time follows its
parameters, the vocabulary head among the tail's; a row of the embedding costs nothing. Each
layer also runs a score of small kernels, whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pomona.models import ModelFacts

LAYER_OVERHEAD = 750_000
"""Time of a layer's small kernels, in parameters read in that time (measured on a CPU)."""
WORKSPACE_BYTES = 256 << 20
"""Activations, buffers and the process itself."""
FULL_CACHE_SHARE = 0.8
"""Share of the remaining memory that caches may fill; padding and growth take the rest."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker that may hold a stage.

    Attributes:
        memory_bytes: for weights, caches and workspace.
        whole_precision: weights and caches are float32 there (no Metal).
    """

    worker: str
    endpoint: str
    memory_bytes: int
    whole_precision: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """Stage i holds layers ``[bounds[i], bounds[i + 1])`` and fits its seat."""

    bounds: tuple[int, ...]
    cache_tokens: int


def weight_bytes(facts: ModelFacts, start: int, stop: int, whole_precision: bool) -> int:
    """Memory of a stage's weights, in bytes."""
    parts = list(facts.layers[start:stop])
    if start == 0:
        parts.append(facts.embedding)
    if stop == facts.layer_count and not (facts.tied_embedding and start == 0):
        parts.append(facts.head)
    return sum(4 * part.parameters if whole_precision else part.stored_bytes for part in parts)


def cache_bytes_per_token(
    facts: ModelFacts, start: int, stop: int, whole_precision: bool, cache_bits: int
) -> float:
    """Memory of one token in a stage's caches, in bytes."""
    values = sum(layer.kv_values_per_token for layer in facts.layers[start:stop])
    bits = cache_bits + 1 if cache_bits else (32 if whole_precision else 16)
    return values * bits / 8


def stage_cost(facts: ModelFacts, start: int, stop: int) -> int:
    """Time of one token in a stage, in parameters read in that time."""
    cost = sum(layer.parameters + LAYER_OVERHEAD for layer in facts.layers[start:stop])
    return cost + (facts.head.parameters if stop == facts.layer_count else 0)


def cache_tokens(facts: ModelFacts, start: int, stop: int, seat: Seat, cache_bits: int = 0) -> int:
    """Tokens that fit beside the weights of a stage; negative when the weights do not fit."""
    whole = seat.whole_precision
    left = seat.memory_bytes - WORKSPACE_BYTES - weight_bytes(facts, start, stop, whole)
    if left < 0:
        return -1
    per_token = cache_bytes_per_token(facts, start, stop, whole, cache_bits)
    return int(left * FULL_CACHE_SHARE / per_token) if per_token else 2**40


def cut(facts: ModelFacts, seats: Sequence[Seat], context: int, cache_bits: int = 0) -> Cut | None:
    """The cut whose slowest stage is fastest, seats in the given order; None when none fits.

    Every stage must hold at least one layer, and caches for ``context`` tokens. Dynamic
    programming over (stages, layers): exact.
    """
    layer_count = facts.layer_count
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, (0,))}
    for index, seat in enumerate(seats):
        last = index == len(seats) - 1
        following: dict[int, tuple[int, tuple[int, ...]]] = {}
        for start, (slowest, bounds) in best.items():
            for stop in range(start + 1, layer_count + 1):
                if last != (stop == layer_count):
                    continue
                if cache_tokens(facts, start, stop, seat, cache_bits) < context:
                    continue
                worst = max(slowest, stage_cost(facts, start, stop))
                if stop not in following or worst < following[stop][0]:
                    following[stop] = (worst, (*bounds, stop))
        best = following
    if layer_count not in best:
        return None
    bounds = best[layer_count][1]
    fits = (
        cache_tokens(facts, bounds[i], bounds[i + 1], seat, cache_bits)
        for i, seat in enumerate(seats)
    )
    return Cut(bounds, min(fits))
