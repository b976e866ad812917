"""Time of a stage that a tensor group holds: equal machines that split every matrix.

Two sums a layer are exchanged. What every rank repeats is not divided: small kernels, latent
caches, and the vocabulary head, which most families keep whole on every rank.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from pomona.models import ModelFacts
from pomona_planner.cost_model.cost_arrays import SAMPLER_LAYERS
from pomona_planner.cost_model.problem import Demand, Machine
from pomona_planner.cost_model.roofline import part_seconds

SUMS: Final = 2
"""Collectives of a layer: after its attention, and after its matrices or experts."""
STEP_S: Final = 300e-6
"""Most time that a group adds to a step beside its collectives: passing the step to its ranks."""
ACTIVATION_BYTES: Final = 2
MAX_RANKS: Final = 4
"""Macs have too few ports to be cabled each to each beyond this."""


@dataclass(frozen=True, slots=True)
class Collective:
    """Time of a sum over all ranks.

    Attributes:
        latency_s: of a small message, seconds.
        bandwidth: of large messages, bytes per second.
        sources: URLs of both.
    """

    kind: str
    latency_s: float
    bandwidth: float
    sources: tuple[str, ...]

    def seconds(self, size: float) -> float:
        """Returns the time to sum ``size`` bytes."""
        return self.latency_s + size / self.bandwidth


@cache
def load_collectives() -> dict[str, Collective]:
    """Returns the collectives of ``data/collectives.toml``, by backend."""
    content = tomllib.loads(files("pomona_planner").joinpath("data/collectives.toml").read_text())
    return {
        name: Collective(
            entry["kind"],
            entry["latency_us"] / 1e6,
            entry["gigabytes_per_s"] * 1e9,
            tuple(entry["sources"]),
        )
        for name, entry in content.items()
    }


@dataclass(frozen=True, slots=True)
class GroupTime:
    """Parts of a step of one user, in seconds.

    Attributes:
        divided: reading and computing what the ranks split.
        repeated: what every rank does itself.
        collectives: exchanging the sums.
    """

    divided: float
    repeated: float
    collectives: float

    @property
    def seconds(self) -> float:
        return self.divided + self.repeated + self.collectives


def group_time(
    facts: ModelFacts,
    machine: Machine,
    ranks: int,
    collective: Collective,
    demand: Demand,
    tokens: int = 1,
) -> GroupTime:
    """Computes the time of a step of ``tokens`` tokens of one user on a group that holds a model.

    Args:
        machine: each of the machines, which are equal.
    """
    divided = repeated = 0.0
    for layer in facts.layers:
        whole = part_seconds(layer, machine, 1, tokens, demand.cached_tokens, demand.cache_bits)
        without = part_seconds(layer, machine, 1, tokens, 0, 0)
        split = without if layer.latent else whole
        divided += split / ranks
        repeated += whole - split + machine.kernels.layer(layer) * machine.layer_s
    repeated += part_seconds(facts.head, machine, 1, 1, 0, 0)
    repeated += SAMPLER_LAYERS * machine.layer_s + machine.step_s
    size = tokens * facts.hidden_size * ACTIVATION_BYTES
    sums = SUMS * len(facts.layers) * collective.seconds(size) + STEP_S if ranks > 1 else 0.0
    return GroupTime(divided * machine.correction, repeated * machine.correction, sums)


def rank_bytes(facts: ModelFacts, ranks: int) -> int:
    """Returns the bytes of weights that each rank holds: a part of the layers, and the ends."""
    layers = sum(layer.stored_bytes for layer in facts.layers)
    ends = facts.head.stored_bytes
    if not facts.tied_embedding:
        ends += facts.embedding.stored_bytes
    return -(-layers // ranks) + ends
