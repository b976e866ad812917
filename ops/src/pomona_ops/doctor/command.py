"""``pomona doctor``: checks this machine, or every node of a running cluster."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable
from textwrap import fill
from typing import Any, Final

import orjson

from pomona import __version__
from pomona.messages.control import PlannerFacts
from pomona.settings import ServiceSettings, read_settings
from pomona_discovery.hardware import detect_hardware
from pomona_discovery.node_facts import collect_node_facts
from pomona_ops.cluster.beacons import collect_beacons
from pomona_ops.cluster.blas import OPENBLAS_REMEDY, missing_openblas
from pomona_ops.cluster.ports import ClusterPorts, is_free
from pomona_ops.cluster.started import Target
from pomona_ops.doctor.checks import Finding, diagnose, openblas
from pomona_ops.doctor.rdma import NOT_RUN, RDMA_CHECKS, rdma_machines
from pomona_ops.doctor.snapshot import Node, Severity, Snapshot, nodes_of, pipelines_of

EXIT_CODES: Final[dict[Severity, int]] = {"ok": 0, "info": 0, "warning": 1, "critical": 2}
_COLUMNS: Final = 80
_STYLES: Final[dict[Severity, str]] = {
    "ok": "green", "info": "cyan", "warning": "yellow", "critical": "bold red",
}  # fmt: skip


def run_doctor(target: Target, as_json: bool, rdma: bool = False) -> int:
    """Prints the findings. Returns the exit code: 0 well, 1 warnings, 2 something critical.

    Args:
        rdma: run the checks for a tensor group over RDMA in place of the usual ones.
    """
    snapshot = take_snapshot(target)
    extra: dict[str, Any] = {}
    if rdma:
        findings = diagnose(snapshot, RDMA_CHECKS)
        extra = {"machines": rdma_machines(snapshot), "note": NOT_RUN}
    else:
        findings = [*diagnose(snapshot), openblas(missing_openblas(), OPENBLAS_REMEDY)]
    worst: Severity = max(findings, key=lambda finding: EXIT_CODES[finding.severity]).severity
    if as_json:
        content = {"worst": worst, "findings": findings, **extra}
        sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        _print(snapshot, findings)
        if rdma:
            print(NOT_RUN)
    return EXIT_CODES[worst]


def take_snapshot(target: Target) -> Snapshot:
    """Collects the nodes of the running cluster; without one, this machine alone."""
    settings = read_settings(ServiceSettings)
    beacons = asyncio.run(collect_beacons(target.endpoint, target.cluster))
    nodes = nodes_of(beacons, time.time())
    if nodes:
        return Snapshot(
            nodes,
            running=True,
            pipelines=pipelines_of(beacons),
            has_planner=any(isinstance(x.facts, PlannerFacts) for x in beacons),
        )
    now = time.time()
    here = Node(
        settings.node,
        detect_hardware(),
        collect_node_facts(settings.state_dir, now),
        __version__,
        observed_at=now,
    )
    uses = ClusterPorts(target.port).by_use(1)
    taken = tuple(f"{use} ({number})" for use, number in uses.items() if not is_free(number))
    return Snapshot((here,), taken)


def _print(snapshot: Snapshot, findings: list[Finding]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    names = ", ".join(node.name for node in snapshot.nodes)
    console.print(
        f"nodes of the cluster: {names}"
        if snapshot.running
        else f"this machine alone, {names}: no cluster is running here"
    )
    for finding in findings:
        if finding.skipped:
            continue
        style = _STYLES[finding.severity]
        console.print(f"[{style}]{finding.severity:<9}[/] {finding.check:<18} {finding.said}")
        if finding.remedy:
            console.print(f"{'':28} -> {finding.remedy}")
    for line in skipped_lines(findings):
        console.print(f"[dim]{line}[/]")


def skipped_lines(findings: Iterable[Finding]) -> list[str]:
    """Returns a paragraph for each reason why checks were skipped, with their names."""
    checks: dict[str, list[str]] = {}
    for finding in findings:
        if finding.skipped:
            checks.setdefault(finding.skipped, []).append(finding.check)
    return [
        fill(
            f"{'skipped':<9} {reason}: {', '.join(names)}",
            _COLUMNS,
            subsequent_indent=" " * 10,
            break_on_hyphens=False,
        )
        for reason, names in checks.items()
    ]
