"""Memory of a stage: weights, caches and workspace."""

from __future__ import annotations

from pomona.models import LayerFacts, ModelFacts

WORKSPACE_BYTES = 256 << 20
"""Activations, buffers and the process itself."""
FULL_CACHE_SHARE = 0.8
"""Share of the remaining memory that caches may fill; padding and growth take the rest."""
UNBOUNDED = 2**40
"""Tokens, where a cache does not grow with them."""


def weight_bytes(facts: ModelFacts, start: int, stop: int, whole_precision: bool) -> int:
    """Memory of a stage's weights, in bytes."""
    parts = list(facts.layers[start:stop])
    if start == 0:
        parts.append(facts.embedding)
    if stop == facts.layer_count and not (facts.tied_embedding and start == 0):
        parts.append(facts.head)
    return sum(4 * part.parameters if whole_precision else part.stored_bytes for part in parts)


def value_bits(whole_precision: bool, cache_bits: int) -> int:
    """Bits of one number in a cache; quantised ones have scales beside them."""
    return cache_bits + 1 if cache_bits else (32 if whole_precision else 16)


def cache_bytes_per_token(
    facts: ModelFacts, start: int, stop: int, whole_precision: bool, cache_bits: int
) -> float:
    """Memory of one more token in a stage's caches, in bytes."""
    values = sum(x.kv_values_per_token for x in facts.layers[start:stop] if not x.window)
    return values * value_bits(whole_precision, cache_bits) / 8


def cache_bytes_per_sequence(
    facts: ModelFacts, start: int, stop: int, whole_precision: bool, cache_bits: int
) -> float:
    """What a sequence takes however long it is: windows and recurrent states, in bytes."""
    layers = facts.layers[start:stop]
    windows = sum(layer.window * layer.kv_values_per_token for layer in layers)
    states = sum(layer.state_values for layer in layers)
    whole = 32 if whole_precision else 16
    return windows * value_bits(whole_precision, cache_bits) / 8 + states * whole / 8


def cache_tokens(
    facts: ModelFacts,
    start: int,
    stop: int,
    memory_bytes: int,
    whole_precision: bool,
    cache_bits: int = 0,
    users: int = 1,
) -> int:
    """Tokens that fit beside the weights of a stage; negative when the weights do not fit."""
    left = memory_bytes - WORKSPACE_BYTES
    left -= weight_bytes(facts, start, stop, whole_precision)
    room = left * FULL_CACHE_SHARE
    room -= users * cache_bytes_per_sequence(facts, start, stop, whole_precision, cache_bits)
    if left < 0 or room < 0:
        return -1
    per_token = cache_bytes_per_token(facts, start, stop, whole_precision, cache_bits)
    return min(int(room / per_token), UNBOUNDED) if per_token else UNBOUNDED


def active_bytes(layer: LayerFacts, rows: int, whole_precision: bool) -> float:
    """Bytes of a layer that a step of ``rows`` tokens reads.

    Experts that one token leaves idle are left idle by ``rows`` of them with the product of
    their chances, were each token routed by itself.
    """
    stored = 4 * layer.parameters if whole_precision else layer.stored_bytes
    idle = 4 * layer.idle_parameters if whole_precision else layer.idle_bytes
    if not idle:
        return float(stored)
    return stored - idle * (idle / stored) ** (rows - 1)
