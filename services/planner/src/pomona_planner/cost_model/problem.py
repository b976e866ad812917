"""What is to be planned: a model, machines, links, and what was promised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pomona.models import ModelFacts

Objective = Literal["latency", "throughput"]


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, or a stage worker on one, that may hold a stage.

    Attributes:
        memory_bytes: for weights, caches and workspace.
        bandwidth: bytes of weights read a second when decoding.
        compute: floating-point operations a second in matrix products.
        layer_s: time of a layer's small kernels, whatever its size, seconds.
        step_s: time of a step besides its layers, seconds.
        whole_precision: weights and caches are float32 there (no Metal).
        correction: measured over predicted time of its stages; 1 before any was measured.
        tail_correction: the same of the vocabulary head and the draw, on top.
        idle_watts, busy_watts: 0 when unknown.
    """

    name: str
    memory_bytes: int
    bandwidth: float
    compute: float
    layer_s: float = 25e-6
    step_s: float = 300e-6
    whole_precision: bool = False
    correction: float = 1.0
    tail_correction: float = 1.0
    idle_watts: float = 0.0
    busy_watts: float = 0.0


@dataclass(frozen=True, slots=True)
class Link:
    """One way between two machines.

    Attributes:
        latency_s: of a small message, software included, seconds.
        bandwidth: bytes a second of a large one.
        kind: in words, such as ``Thunderbolt 5, RDMA``.
    """

    latency_s: float
    bandwidth: float
    kind: str = ""


UNMEASURED = Link(500e-6, 110e6, "not measured; gigabit Ethernet assumed")


@dataclass(frozen=True, slots=True)
class Demand:
    """What the plan must serve.

    Attributes:
        context: tokens of one request, prompt and reply, that were promised.
        users: requests at once.
        cache_bits: keys and values are quantised to this many bits; 0 leaves them whole.
        cached_tokens: tokens in a sequence's cache when its speed is predicted.
        prompt_tokens: of the prompt whose first token is predicted.
    """

    context: int = 1024
    users: int = 1
    cache_bits: int = 0
    cached_tokens: int = 512
    prompt_tokens: int = 1024


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
class Problem:
    """Attributes:
    links: by the names of sender and receiver; what is missing is ``UNMEASURED``.
    cuts: layers before which the model may be cut; None for all.
    required: machines that must hold a stage.
    pins: machines that hold exactly these layers, when they hold any.
    """

    facts: ModelFacts
    machines: tuple[Machine, ...]
    links: Mapping[tuple[str, str], Link] = field(default_factory=dict[tuple[str, str], Link])
    demand: Demand = Demand()
    cuts: tuple[int, ...] | None = None
    required: frozenset[str] = frozenset()
    pins: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    def link(self, sender: str, receiver: str) -> Link:
        return self.links.get((sender, receiver), UNMEASURED)

    def positions(self) -> tuple[int, ...]:
        """Layers at which a stage may start or stop, the two ends included."""
        count = self.facts.layer_count
        inner = range(1, count) if self.cuts is None else self.cuts
        return (0, *sorted({cut for cut in inner if 0 < cut < count}), count)
