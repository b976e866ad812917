"""``pomona plan --list``: what can be planned for by name."""

from __future__ import annotations

import sys
from typing import Any

import orjson

from pomona.models.published import published_names
from pomona_planner.cluster.machine_catalog import load_machine_catalog


def catalog() -> dict[str, Any]:
    """Returns the object that ``--json`` prints: ``machines``, ``links`` and ``models``."""
    found = load_machine_catalog()
    return {
        "machines": [
            {
                "name": kind.name,
                "chip": kind.chip,
                "machine": kind.machine,
                "memory_gb": sorted(kind.prices),
                "thunderbolt": kind.thunderbolt,
            }
            for kind in found.kinds
        ],
        "links": [
            {
                "name": name,
                "kind": link.kind,
                "rtt_us": round(2e6 * link.latency_s),
                "bytes_per_s": round(link.bandwidth),
            }
            for name, link in found.links.items()
        ],
        "models": published_names(),
    }


def print_catalog(as_json: bool) -> None:
    """Prints the names, with the memory sizes that a machine is sold with."""
    found = catalog()
    if as_json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    for machine in found["machines"]:
        sizes = ", ".join(f"{machine['name']}-{size}gb" for size in machine["memory_gb"])
        print(f"machine  {sizes}  ({machine['machine']})")
    for link in found["links"]:
        print(f"link     {link['name']}  ({link['kind']})")
    for name in found["models"]:
        print(f"model    {name}")
