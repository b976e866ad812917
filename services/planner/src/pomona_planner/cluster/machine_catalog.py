"""Machines and links that one may not own yet, from ``data/machines.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pomona_planner.cost_model.problem import Link


@dataclass(frozen=True, slots=True)
class ChipKind:
    """Nominal figures of a chip.

    Attributes:
        bandwidth: of memory, bytes a second.
        compute: of matrix products in half precision, operations a second.
        idle_watts, busy_watts: of a whole machine with it.
        specs: where its maker specifies it.
        thunderbolt: version of its ports where that is below 5; 5 for all others.
        sources: of figures that stand elsewhere, by their names in ``data/machines.toml``.
        unsure: names of figures that neither its maker nor a published measurement confirms.
    """

    name: str
    chip: str
    bandwidth: float
    compute: float
    idle_watts: float
    busy_watts: float
    machine: str
    prices: dict[int, float]
    """Memory in GB to price in dollars; the memory sizes that are sold."""
    specs: str
    thunderbolt: int
    sources: dict[str, str]
    unsure: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MachineCatalog:
    kinds: tuple[ChipKind, ...]
    links: dict[str, Link]
    electricity: float
    """Dollars a kilowatt-hour."""
    life_years: float
    """Over which a machine's price is spread."""

    def by_name(self, name: str) -> ChipKind | None:
        return next((kind for kind in self.kinds if kind.name == name), None)

    def by_chip(self, chip: str) -> ChipKind | None:
        """The kind whose chip calls itself so, such as ``Apple M4 Pro``."""
        return next((kind for kind in self.kinds if kind.chip == chip), None)


@cache
def machine_kinds() -> MachineCatalog:
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
        thunderbolt=entry.get("thunderbolt", 5),
        sources=entry.get("sources", {}),
        unsure=tuple(entry["unsure"]),
    )
