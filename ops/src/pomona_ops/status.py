"""``pomona status``: hear every service once, and say what the cluster is doing."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

import orjson

from pomona.leases import BEACON_INTERVAL_S, LeaseTable
from pomona.messages.control import Beacon
from pomona.transport import BeaconReceiver
from pomona_ops.report import ClusterReport, ClusterState, cluster_report
from pomona_ops.words import in_bytes

LISTEN_S = BEACON_INTERVAL_S * 1.4
EXIT_CODES: Final[dict[ClusterState, int]] = {"serving": 0, "degraded": 1, "absent": 2}


async def hear_cluster(endpoint: str, cluster: str, listen_s: float = LISTEN_S) -> list[Beacon]:
    """The newest beacon of every service that spoke within ``listen_s`` seconds."""
    leases = LeaseTable()
    receiver = BeaconReceiver(endpoint, cluster)
    ends_at = time.monotonic() + listen_s
    try:
        while (left_s := ends_at - time.monotonic()) > 0:
            beacon = await receiver.receive(left_s)
            if beacon is not None:
                leases.hear(beacon, time.monotonic())
    finally:
        await receiver.close()
    return [lease.beacon for lease in leases]


def show_status(endpoint: str, cluster: str, as_json: bool) -> int:
    """Print the cluster's state; the exit code: 0 serving, 1 degraded, 2 no cluster."""
    report = cluster_report(cluster, asyncio.run(hear_cluster(endpoint, cluster)))
    if as_json:
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    elif report.state == "absent":
        print(
            f"No cluster called {cluster} speaks at {endpoint}. Start one with `pomona up`, "
            "or name its port with --port.",
            file=sys.stderr,
        )
    else:
        _print(report)
    return EXIT_CODES[report.state]


def _print(report: ClusterReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    colour = "green" if report.state == "serving" else "yellow"
    console.print(
        f"[bold]{report.cluster}[/bold] is [bold {colour}]{report.state}[/]"
        f"  {' '.join(report.urls)}  users {report.users}  {report.tokens_per_second:g} tok/s"
    )
    for trouble in report.troubles:
        console.print(f"  [yellow]![/yellow] {trouble}", markup=True)

    def table(*columns: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            numeric = column in {"pid", "layers", "weights", "resident", "caches", "memory"}
            made.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
        return made

    nodes = table("node", "chip", "cores", "memory", "usable", "system")
    for node in report.nodes:
        hardware = node.hardware
        if hardware is None:
            nodes.add_row(node.name, "its discovery service is not heard")
            continue
        nodes.add_row(
            node.name,
            hardware.chip,
            str(hardware.cores),
            in_bytes(hardware.memory_bytes),
            in_bytes(hardware.usable_memory_bytes),
            f"{hardware.os_name} {hardware.os_version}",
        )
    console.print(nodes)

    for pipeline in report.pipelines:
        console.print(f"[bold]{pipeline.model}[/bold]  epoch {pipeline.epoch}  {pipeline.state}")
        stages = table("layers", "stage worker", "pid", "state", "weights", "resident", "caches")
        for stage in pipeline.stages:
            stages.add_row(
                f"{stage.start}..{stage.stop}",
                stage.worker,
                str(stage.pid or ""),
                stage.state,
                in_bytes(stage.loaded_bytes),
                in_bytes(stage.resident_bytes),
                in_bytes(stage.cache_bytes),
            )
        console.print(stages)

    services = table("service", "node", "pid", "state", "listens at")
    for service in report.services:
        services.add_row(
            service.name,
            service.node,
            str(service.pid),
            service.state,
            "  ".join(sorted(service.endpoints.values())),
        )
    console.print(services)
    for alert in report.alerts:
        console.print(f"[red]{alert.severity}[/red]: {alert.summary}")
