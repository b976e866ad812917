"""What a tensor group of a hypothetical cluster would give, beside its pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pomona_planner.cluster.from_spec import HypotheticalMachine
from pomona_planner.cost_model.problem import Problem
from pomona_planner.cost_model.tensor_group import (
    MAX_RANKS,
    group_time,
    load_collectives,
    rank_bytes,
)

NOT_YET = "Pomona does not run groups of several Macs yet; this is a prediction only"


def plan_group(problem: Problem, cluster: Sequence[HypotheticalMachine]) -> dict[str, Any]:
    """Predicts one group of all machines over RDMA.

    Returns:
        ``possible``, and ``reason`` if not. If so: ``tokens_per_second`` of one user,
        ``rank_bytes``, and ``needs``: what every machine must have, which a cluster's spec does not
        tell.
    """
    names = sorted({machine.name for machine in cluster})
    ranks = len(cluster)
    if not 2 <= ranks <= MAX_RANKS:
        return _impossible(f"a group has 2 to {MAX_RANKS} machines, cabled each to each")
    if len(names) > 1:
        return _impossible(f"a group needs equal machines, not {' and '.join(names)}")
    version = cluster[0].kind.thunderbolt
    if version < 5:
        return _impossible(
            f"{names[0]} has Thunderbolt {version}: RDMA needs Thunderbolt 5, and no setting "
            "adds it"
        )
    facts, machine = problem.facts, problem.machines[0]
    held = rank_bytes(facts, ranks)
    if held > machine.memory_bytes:
        return _impossible(
            f"each machine would hold {held / 1e9:.0f} GB of weights, and has "
            f"{machine.memory_bytes / 1e9:.0f} GB for them"
        )
    collective = load_collectives()["jaccl"]
    time = group_time(facts, machine, ranks, collective, problem.demand)
    cables = ranks * (ranks - 1) // 2
    return {
        "possible": True,
        "backend": "jaccl",
        "ranks": ranks,
        "tokens_per_second": round(1 / time.seconds, 2),
        "collectives_ms": round(time.collectives * 1e3, 2),
        "repeated_ms": round(time.repeated * 1e3, 2),
        "rank_bytes": held,
        "needs": [
            "macOS 26.2 or later on every machine",
            "RDMA enabled on every machine: rdma_ctl enable, in recovery mode",
            "the Thunderbolt Bridge turned off on every machine",
            f"{cables} Thunderbolt 5 {'cable' if cables == 1 else 'cables'}, one between each two "
            "machines, in ports with an IPv4 address each; on a Mac Studio not the port beside "
            "Ethernet",
            f"a model whose heads and matrices are divisible by {ranks}",
        ],
        "note": NOT_YET,
        "sources": list(collective.sources),
    }


def group_line(plan: dict[str, Any]) -> str:
    """Formats the prediction for the terminal; empty for one machine."""
    group = plan["group"]
    if plan["machines"] == 1:
        return ""
    if not group["possible"]:
        return f"as a group    not possible: {group['reason']}"
    gain = ""
    if plan["fits"]:
        gain = f" ({group['tokens_per_second'] / plan['tokens_per_second']:.2f} of the pipeline)"
    needs = "".join(f"\n  needs {need}" for need in group["needs"])
    return (
        f"as a group    {group['tokens_per_second']:.1f} tok/s for one user over RDMA{gain}; "
        f"{group['note']}{needs}"
    )


def _impossible(reason: str) -> dict[str, Any]:
    return {"possible": False, "reason": reason}
