"""A cluster in words, such as ``8x:m4-pro-64gb``, and the problem that it poses."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pomona.errors import ConfigurationError
from pomona.models import ModelFacts
from pomona_planner.cluster.machine_catalog import ChipKind, MachineCatalog, machine_kinds
from pomona_planner.cost_model.problem import Demand, Link, Machine, Problem

GIB = 1 << 30
ACHIEVED = 0.8
"""Share of a chip's nominal bandwidth that decoding reaches."""
MAC_LAYER_S = 40e-6
"""Small kernels of a layer on Metal."""
MOST_MACHINES = 16

_PART = re.compile(r"^(?:(\d+)x:?)?([a-z0-9-]+?)-(\d+)gb$")


@dataclass(frozen=True, slots=True)
class HypotheticalMachines:
    """A machine of a cluster that need not exist. Attributes: memory_gb: as it is sold."""

    kind: ChipKind
    memory_gb: int

    @property
    def name(self) -> str:
        return f"{self.kind.name}-{self.memory_gb}gb"

    @property
    def usable_bytes(self) -> int:
        """What MLX may use: macOS lets the GPU have three quarters, two thirds when small."""
        whole = self.memory_gb * GIB
        return whole * 2 // 3 if self.memory_gb <= 36 else whole * 3 // 4

    @property
    def price(self) -> float:
        """Dollars: of the smallest configuration sold that has the memory."""
        prices = self.kind.prices
        return prices[min((size for size in prices if size >= self.memory_gb), default=max(prices))]


def parse_cluster(text: str) -> list[HypotheticalMachines]:
    """Machines of ``8x:m4-pro-64gb`` or ``2x:m4-max-128gb,m3-ultra-256gb``."""
    catalogue = machine_kinds()
    found: list[HypotheticalMachines] = []
    for part in re.split(r"[,+]", text.lower().replace(" ", "")):
        match = _PART.match(part)
        bare = catalogue.by_name(re.sub(r"^\d+x:?", "", part))
        if bare is not None:
            sizes = ", ".join(map(str, bare.prices))
            raise ConfigurationError(
                f"{part!r} says no memory; {bare.machine} is sold with {sizes} GB: write "
                f"{part}-{max(bare.prices)}gb"
            )
        kind = catalogue.by_name(match[2]) if match else None
        if match is None or kind is None:
            known = ", ".join(kind.name for kind in catalogue.kinds)
            raise ConfigurationError(
                f"{part!r} names no machines; write 8x:m4-pro-64gb, with one of: {known}"
            )
        memory = int(match[3])
        if memory not in kind.prices:
            sizes = ", ".join(map(str, kind.prices))
            raise ConfigurationError(f"{kind.machine} is sold with {sizes} GB, not {memory}")
        count = int(match[1] or 1)
        if count < 1 or len(found) + count > MOST_MACHINES:
            raise ConfigurationError(f"a cluster has 1 to {MOST_MACHINES} machines")
        found += [HypotheticalMachines(kind, memory)] * count
    return found


def link_named(name: str) -> Link:
    links = machine_kinds().links
    if name not in links:
        raise ConfigurationError(f"{name!r} is no kind of link; known: {', '.join(links)}")
    return links[name]


def hypothetical_problem(
    facts: ModelFacts,
    cluster: list[HypotheticalMachines],
    link: Link,
    demand: Demand,
    wired_share: float = 0.0,
) -> Problem:
    """Args: wired_share: of memory that the operator lets MLX use; 0 leaves it to macOS."""
    machines = tuple(
        Machine(
            name=f"{number}:{one.name}",
            memory_bytes=int(one.memory_gb * GIB * wired_share) or one.usable_bytes,
            bandwidth=one.kind.bandwidth * ACHIEVED,
            compute=one.kind.compute,
            layer_s=MAC_LAYER_S,
            idle_watts=one.kind.idle_watts,
            busy_watts=one.kind.busy_watts,
        )
        for number, one in enumerate(cluster, 1)
    )
    names = [machine.name for machine in machines]
    links = {(a, b): link for a in names for b in names if a != b}
    return Problem(facts, machines, links, demand, cuts=facts.legal_cuts)


def ceiling(facts: ModelFacts, bandwidth: float) -> float:
    """Tokens a second, were each active weight read once at the nominal bandwidth."""
    read = sum(layer.active_bytes for layer in facts.layers) + facts.head.active_bytes
    return bandwidth / read


def dollars_per_million(
    catalogue: MachineCatalog, price: float, watts: float, rate: float
) -> float:
    """Electricity and the machines' price over their life, at full use."""
    seconds = 1e6 / rate
    power = watts * seconds / 3.6e6 * catalogue.electricity
    return power + price * seconds / (catalogue.life_years * 365.25 * 86400)
