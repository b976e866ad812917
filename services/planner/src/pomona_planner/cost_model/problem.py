"""Input of the planner: a model, machines, links and the demand to serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pomona.models import ModelFacts
from pomona_planner.cost_model.kernel_times import UNIFORM, KernelTimes

Objective = Literal["latency", "throughput"]


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, or one stage worker on it, that may hold a stage.

    Attributes:
        memory_bytes: memory for weights, caches and workspace.
        bandwidth: bytes of weights read per second when decoding.
        compute: floating-point operations per second in matrix products.
        layer_s: time of the small kernels of a layer with full attention and no experts,
            independent of its size, seconds.
        step_s: time of a step besides its layers, seconds.
        full_precision: weights and caches are float32, because there is no Metal.
        correction: measured over predicted time of its stages; 1 before a measurement.
        tail_correction: further factor of the vocabulary head and the sampler.
        kernels: factors of other kinds of layers and weights.
        idle_watts, busy_watts: power of the whole machine; 0 when unknown.
    """

    name: str
    memory_bytes: int
    bandwidth: float
    compute: float
    layer_s: float = 25e-6
    step_s: float = 300e-6
    full_precision: bool = False
    correction: float = 1.0
    tail_correction: float = 1.0
    kernels: KernelTimes = UNIFORM
    idle_watts: float = 0.0
    busy_watts: float = 0.0


@dataclass(frozen=True, slots=True)
class Link:
    """A network path from one machine to another.

    Attributes:
        latency_s: one-way latency of a small message, software included, seconds.
        bandwidth: bytes per second of a large message.
        kind: name for people, like ``Thunderbolt 5, RDMA``.
    """

    latency_s: float
    bandwidth: float
    kind: str = ""


UNMEASURED = Link(500e-6, 110e6, "not measured; gigabit Ethernet assumed")


@dataclass(frozen=True, slots=True)
class Demand:
    """Load that a plan must serve.

    Attributes:
        context: tokens of one request, prompt and reply, whose cache must fit.
        users: concurrent requests.
        cache_bits: bits of quantised keys and values; 0 leaves them unquantised.
        cached_tokens: tokens in a sequence's cache when its speed is predicted.
        prompt_tokens: length of the prompt for which time to first token is predicted.
    """

    context: int = 1024
    users: int = 1
    cache_bits: int = 0
    cached_tokens: int = 512
    prompt_tokens: int = 1024


@dataclass(frozen=True, slots=True)
class Aim:
    """Objective of the optimizer.

    Attributes:
        objective: ``latency`` minimises the time of one user's token; ``throughput``
            maximises the tokens per second of all users together.
        floor: minimum share of the best possible throughput when the objective is
            ``latency``, from 0 to 1.
        stages: exact number of stages; 0 leaves the number to the optimizer.
    """

    objective: Objective = "latency"
    floor: float = 0.25
    stages: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """Planning problem.

    Attributes:
        links: by the names of sender and receiver; missing ones are ``UNMEASURED``.
        cuts: layers before which the model may be cut; None allows every layer.
        required: names of machines that must hold a stage.
        pins: layer range ``(start, stop)`` by machine name; such a machine holds exactly
            this range or nothing.
        draft: small model that guesses tokens on the head; None for none.
        acceptance: measured or given share of right guesses; None when it is not known.
    """

    facts: ModelFacts
    machines: tuple[Machine, ...]
    links: Mapping[tuple[str, str], Link] = field(default_factory=dict[tuple[str, str], Link])
    demand: Demand = Demand()
    cuts: tuple[int, ...] | None = None
    required: frozenset[str] = frozenset()
    pins: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    draft: ModelFacts | None = None
    acceptance: float | None = None

    def link(self, sender: str, receiver: str) -> Link:
        return self.links.get((sender, receiver), UNMEASURED)

    def positions(self) -> tuple[int, ...]:
        """Returns the layer indices at which a stage may start or stop, both ends included."""
        count = self.facts.layer_count
        inner = range(1, count) if self.cuts is None else self.cuts
        return (0, *sorted({cut for cut in inner if 0 < cut < count}), count)

    def required_nodes(self) -> frozenset[int]:
        """Returns the indices of the machines that must hold a stage."""
        return frozenset(
            index for index, machine in enumerate(self.machines) if machine.name in self.required
        )
