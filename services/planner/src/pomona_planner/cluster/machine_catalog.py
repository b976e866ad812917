"""Catalog of Apple machines and links with their nominal figures, from ``data/machines.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pomona_planner.cost_model.problem import Link


@dataclass(frozen=True, slots=True)
class ChipKind:
    """Nominal figures of a chip and of a machine with it.

    Attributes:
        name: name in a cluster spec, like ``m4-pro``.
        chip: name that the chip reports, like ``Apple M4 Pro``.
        bandwidth: memory bandwidth, bytes per second.
        compute: floating-point operations per second of half-precision matrix products.
        idle_watts, busy_watts: power of a whole machine.
        machine: name of the machine, like ``Mac mini``.
        prices: dollars by memory size in GB; its keys are the sizes that are sold.
        specs: URL of the manufacturer's specifications.
        gpu_cores: cores of its GPU where chips of one name differ in bandwidth; 0 elsewhere.
        thunderbolt: version of the ports if it is below 5; 5 for all others.
        sources: URLs of figures that are not in ``specs``, by the figure's name in the file.
        unsure: names of figures that no manufacturer or published measurement confirms.
    """

    name: str
    chip: str
    bandwidth: float
    compute: float
    idle_watts: float
    busy_watts: float
    machine: str
    prices: dict[int, float]
    specs: str
    gpu_cores: int
    thunderbolt: int
    sources: dict[str, str]
    unsure: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MachineCatalog:
    """Known machines and links.

    Attributes:
        links: by the name that ``--link`` takes.
        electricity: dollars per kilowatt-hour.
        life_years: years over which a machine's price is spread.
    """

    kinds: tuple[ChipKind, ...]
    links: dict[str, Link]
    electricity: float
    life_years: float

    def by_name(self, name: str) -> ChipKind | None:
        return next((kind for kind in self.kinds if kind.name == name), None)

    def by_chip(self, chip: str, memory_bytes: int = 0) -> ChipKind | None:
        """Returns the kind whose chip reports this name.

        Chips of one name with different bandwidths are told apart by the memory sizes that they
        are sold with; the first one is returned where that does not help.
        """
        kinds = [kind for kind in self.kinds if kind.chip == chip]
        sold = [kind for kind in kinds if memory_bytes >> 30 in kind.prices]
        return next(iter([*sold, *kinds]), None)


@cache
def load_machine_catalog() -> MachineCatalog:
    content = tomllib.loads(files("pomona_planner").joinpath("data/machines.toml").read_text())
    return MachineCatalog(
        tuple(_kind(name, entry) for name, entry in content["machines"].items()),
        {
            name: Link(entry["latency_us"] / 1e6, entry["gigabytes_per_s"] * 1e9, entry["kind"])
            for name, entry in content["links"].items()
        },
        content["electricity_dollars_per_kwh"],
        content["life_years"],
    )


def _kind(name: str, entry: dict[str, Any]) -> ChipKind:
    return ChipKind(
        name=name,
        chip=entry["chip"],
        bandwidth=entry["gigabytes_per_s"] * 1e9,
        compute=entry["teraflops_fp16"] * 1e12,
        idle_watts=entry["idle_watts"],
        busy_watts=entry["busy_watts"],
        machine=entry["machine"],
        prices={int(size): price for size, price in entry["prices"].items()},
        specs=entry["specs"],
        gpu_cores=entry.get("gpu_cores", 0),
        thunderbolt=entry.get("thunderbolt", 5),
        sources=entry.get("sources", {}),
        unsure=tuple(entry["unsure"]),
    )
