"""Planning problem of a hypothetical cluster, from a spec like ``8x:m4-pro-64gb``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pomona.errors import ConfigurationError
from pomona.models import ModelFacts
from pomona_planner.cluster.decode_times import DecodeTimes, load_decode_times
from pomona_planner.cluster.machine_catalog import ChipKind, load_machine_catalog
from pomona_planner.cost_model.problem import Demand, Link, Machine, Problem

GIB = 1 << 30
MAX_MACHINES = 16
RESERVE_SHARE = 0.05
"""Part of the working set that stage workers leave free, as they state it in their beacons."""

_PART = re.compile(r"^(?:(\d+)x:?)?([a-z0-9-]+?)-(\d+)gb$")


@dataclass(frozen=True, slots=True)
class HypotheticalMachine:
    """A machine of a cluster that need not exist. Attributes: memory_gb: size as it is sold."""

    kind: ChipKind
    memory_gb: int

    @property
    def name(self) -> str:
        return f"{self.kind.name}-{self.memory_gb}gb"

    def usable_bytes(self, wired_share: float = 0.0) -> int:
        """Memory that a stage worker uses: what macOS lets the GPU use, less RESERVE_SHARE.

        Args:
            wired_share: share of memory that the operator lets the GPU use; 0 for macOS's default,
                two thirds up to 36 GB and three quarters above.
        """
        share = wired_share or (2 / 3 if self.memory_gb <= 36 else 3 / 4)
        return int(self.memory_gb * GIB * share * (1 - RESERVE_SHARE))

    @property
    def price(self) -> float:
        """Price in dollars of the smallest configuration with this memory."""
        prices = self.kind.prices
        return prices[min((size for size in prices if size >= self.memory_gb), default=max(prices))]


def parse_cluster(text: str) -> list[HypotheticalMachine]:
    """Parses a cluster spec: ``2x:m4-max-128gb,m3-ultra-256gb``.

    Raises:
        ConfigurationError: when a machine or its memory size is unknown, or there are more
            than ``MAX_MACHINES``.
    """
    catalog = load_machine_catalog()
    machines: list[HypotheticalMachine] = []
    for part in re.split(r"[,+]", text.lower().replace(" ", "")):
        match = _PART.match(part)
        without_memory = catalog.by_name(re.sub(r"^\d+x:?", "", part))
        if without_memory is not None:
            sizes = ", ".join(map(str, without_memory.prices))
            raise ConfigurationError(
                f"{part!r} has no memory size; {without_memory.machine} is sold with {sizes} GB: "
                f"write {part}-{max(without_memory.prices)}gb"
            )
        kind = catalog.by_name(match[2]) if match else None
        if match is None or kind is None:
            known = ", ".join(kind.name for kind in catalog.kinds)
            raise ConfigurationError(
                f"{part!r} is not a valid cluster; write 8x:m4-pro-64gb, with one of: {known}"
            )
        memory = int(match[3])
        if memory not in kind.prices:
            sizes = ", ".join(map(str, kind.prices))
            raise ConfigurationError(f"{kind.machine} is sold with {sizes} GB, not {memory}")
        count = int(match[1] or 1)
        if count < 1 or len(machines) + count > MAX_MACHINES:
            raise ConfigurationError(f"{text!r} must name 1 to {MAX_MACHINES} machines")
        machines += [HypotheticalMachine(kind, memory)] * count
    return machines


def link_by_name(name: str) -> Link:
    """Raises ConfigurationError when the link is unknown."""
    links = load_machine_catalog().links
    if name not in links:
        raise ConfigurationError(f"{name!r} is not a known link; use one of: {', '.join(links)}")
    return links[name]


def hypothetical_problem(
    facts: ModelFacts,
    cluster: Sequence[HypotheticalMachine],
    link: Link,
    demand: Demand,
    wired_share: float = 0.0,
    times: DecodeTimes | None = None,
) -> Problem:
    """Returns the problem of planning a model on a cluster whose links are all equal.

    Args:
        wired_share: share of memory that the operator lets the GPU use; 0 for macOS's default.
        times: fitted times of decoding; None for those of ``data/decode_times.toml``.
    """
    times = times or load_decode_times()
    machines = tuple(
        Machine(
            name=f"{number}:{machine.name}",
            memory_bytes=machine.usable_bytes(wired_share),
            bandwidth=times.bandwidth(machine.kind.chip, machine.kind.bandwidth),
            compute=machine.kind.compute,
            layer_s=times.layer_s(machine.kind.chip),
            kernels=times.kernels,
            idle_watts=machine.kind.idle_watts,
            busy_watts=machine.kind.busy_watts,
        )
        for number, machine in enumerate(cluster, 1)
    )
    names = [machine.name for machine in machines]
    links = {(a, b): link for a in names for b in names if a != b}
    return Problem(facts, machines, links, demand, cuts=facts.legal_cuts)
