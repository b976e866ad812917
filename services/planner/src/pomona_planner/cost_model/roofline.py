"""Time of one part of the model, a layer or the vocabulary head, in one step.

The roofline model (S. Williams et al. 2009): the time to read weights and caches or the time
to multiply, whichever is longer.
"""

from __future__ import annotations

from pomona.models import LayerFacts
from pomona_planner.cost_model.memory import bits_per_value
from pomona_planner.cost_model.problem import Machine


def part_seconds(
    part: LayerFacts, machine: Machine, rows: int, tokens: int, cached: int, cache_bits: int
) -> float:
    """Computes the seconds of a part in one step, without its small kernels.

    Args:
        rows: sequences in the step, each with ``tokens`` new tokens and ``cached`` tokens in
            its cache.
    """
    full = machine.full_precision
    attended = min(cached, part.window) if part.window else cached
    cache = rows * (attended * part.kv_values_per_token + part.state_values)
    read = read_seconds(part, machine, rows * tokens)
    read += cache * bits_per_value(full, cache_bits) / 8 / machine.bandwidth
    operations = 2.0 * part.active_parameters * rows * tokens
    operations += 2.0 * rows * tokens * attended * part.kv_values_per_token
    return max(read, operations / machine.compute)


def read_seconds(part: LayerFacts, machine: Machine, tokens: int) -> float:
    """Computes the seconds of reading the weights that a step of ``tokens`` tokens uses."""
    size = active_bytes(part, tokens, machine.full_precision)
    factor = 1.0 if machine.full_precision else machine.kernels.bandwidth_factor(part)
    return size / (machine.bandwidth * factor)


def active_bytes(part: LayerFacts, tokens: int, full_precision: bool) -> float:
    """Computes the bytes of weights that a step of ``tokens`` tokens reads.

    Assumes that the router chooses experts independently for each token, so the expected idle
    share falls as a power of the number of tokens.
    """
    stored = 4 * part.parameters if full_precision else part.stored_bytes
    idle = 4 * part.idle_parameters if full_precision else part.idle_bytes
    if not idle:
        return float(stored)
    return stored - idle * (idle / stored) ** (tokens - 1)
