"""``pomona status``: prints the state of a cluster, from its beacons."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import orjson

from pomona.addresses import IPC_PREFIX
from pomona.leases import BEACON_INTERVAL_S, LeaseTable
from pomona.messages.control import SpeculationStatus
from pomona.transport import BeaconReceiver
from pomona_ops.cluster.beacons import LISTEN_S, collect_beacons, observe_beacons
from pomona_ops.cluster.report import (
    ClusterReport,
    ClusterState,
    PipelineReport,
    StageReport,
    cluster_report,
)
from pomona_ops.units import in_bytes

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

EXIT_CODES: Final[dict[ClusterState, int]] = {"serving": 0, "degraded": 1, "absent": 2}


def show_status(endpoint: str, cluster: str, as_json: bool) -> int:
    """Prints the state once. Returns the exit code: 0 serving, 1 degraded, 2 no cluster."""
    report = cluster_report(cluster, asyncio.run(collect_beacons(endpoint, cluster)))
    if as_json:
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    elif report.state == "absent":
        print(_absent_message(endpoint, cluster), file=sys.stderr)
    else:
        _print(report)
    return EXIT_CODES[report.state]


def watch_status(endpoint: str, cluster: str) -> int:
    """Refreshes the state every second until Ctrl-C, and returns 0 then.

    When standard output is not a terminal, it prints one report after the other, and returns 2
    as soon as no service sends a beacon.
    """
    try:
        asyncio.run(_watch(endpoint, cluster))
    except KeyboardInterrupt:
        return 0
    print(_absent_message(endpoint, cluster), file=sys.stderr)
    return EXIT_CODES["absent"]


async def _watch(endpoint: str, cluster: str) -> None:
    """Returns when the cluster is absent and standard output is not a terminal."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    leases = LeaseTable()
    receiver = BeaconReceiver(endpoint, cluster)
    listen_s = LISTEN_S
    try:
        with ExitStack() as stack:
            live = None
            if console.is_terminal:
                live = stack.enter_context(
                    Live(
                        Text("waiting for beacons"),
                        console=console,
                        auto_refresh=False,
                        screen=True,
                    )
                )
            while True:
                await observe_beacons(receiver, leases, listen_s)
                listen_s = BEACON_INTERVAL_S
                leases.expire(time.monotonic())
                report = cluster_report(cluster, [lease.beacon for lease in leases])
                absent = report.state == "absent"
                if live is not None:
                    shown = Text(_absent_message(endpoint, cluster)) if absent else rendered(report)
                    live.update(shown, refresh=True)
                elif absent:
                    return
                else:
                    console.print(rendered(report))
    finally:
        await receiver.close()


def _absent_message(endpoint: str, cluster: str) -> str:
    return (
        f"No beacons from a cluster called {cluster} at {endpoint}. Start one with `pomona up`, "
        "or pass its port with --port."
    )


def _print(report: ClusterReport) -> None:
    from rich.console import Console

    Console(highlight=False).print(rendered(report))


def rendered(report: ClusterReport) -> Group:
    """Formats the report for a terminal: nodes, links, stages, services."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    colour = "green" if report.state == "serving" else "yellow"
    head = Text(report.cluster, style="bold")
    head.append(" is ", style="not bold").append(report.state, style=f"bold {colour}")
    head.append(
        f"  {' '.join(report.urls)}  users {report.users}  {report.tokens_per_second:g} tok/s",
        style="not bold",
    )
    parts.append(head)
    troubles = [*report.troubles]
    troubles += [f"{node.name}: {x}" for node in report.nodes for x in node.troubles]
    parts += [Text(f"  ! {trouble}", style="yellow") for trouble in troubles]
    parts.append(_nodes(report))
    if any(node.links for node in report.nodes):
        parts.append(_links(report))
    for pipeline in report.pipelines:
        parts += _pipeline(pipeline)
    if report.requests:
        parts.append(_requests(report))
    parts.append(_services(report))
    parts += [Text(f"{a.severity}: {a.summary}", style="red") for a in report.alerts]
    return Group(*parts)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    text_columns = {
        "node",
        "chip",
        "system",
        "stage worker",
        "state",
        "service",
        "listens at",
        "to",
    }
    text_columns |= {"kind", "address", "from", "request", "model"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        numeric = column not in text_columns
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
    return table


def _nodes(report: ClusterReport) -> Table:
    table = _table("node", "chip", "cores", "memory", "usable", "power", "system")
    for node in report.nodes:
        hardware = node.hardware
        if hardware is None:
            table.add_row(node.name, "no beacon from its discovery service")
            continue
        table.add_row(
            node.name,
            hardware.chip,
            str(hardware.cores),
            in_bytes(hardware.memory_bytes),
            in_bytes(hardware.usable_memory_bytes),
            f"{node.machine.watts:.0f} W" if node.machine.watts else "",
            f"{hardware.os_name} {hardware.os_version}",
        )
    return table


def _links(report: ClusterReport) -> Table:
    table = _table("from", "to", "kind", "address", "round trip", "rate")
    for node in report.nodes:
        for link in node.links:
            if not link.address:
                table.add_row(node.name, link.node, "does not answer", " ".join(link.dead))
                continue
            table.add_row(
                node.name,
                link.node,
                link.kind,
                link.address,
                f"{link.rtt_us / 1000:.2f} ±{link.rtt_spread_us / 1000:.2f} ms",
                f"{in_bytes(int(link.bytes_per_s))}/s",
            )
    return table


def _state(stage: StageReport) -> str:
    if stage.state == "loading" and stage.fetch_bytes and not stage.total_bytes:
        return f"fetching {100 * stage.fetched_bytes // stage.fetch_bytes}%"
    return stage.state


def _mlx_memory(stage: StageReport) -> str:
    """Returns the memory of MLX's arrays and what its allocator keeps besides."""
    if not stage.active_bytes:
        return ""
    return f"{in_bytes(stage.active_bytes)} + {in_bytes(stage.cached_bytes)} kept"


def _pipeline(pipeline: PipelineReport) -> list[RenderableType]:
    from rich.text import Text

    head = Text(pipeline.model, style="bold")
    head.append(f"  epoch {pipeline.epoch}  {pipeline.state}", style="not bold")
    table = _table(
        "layers",
        "stage worker",
        "state",
        "weights",
        "memory",
        "MLX",
        "caches",
        "ms predicted",
        "measured",
    )
    for stage in pipeline.stages:
        table.add_row(
            f"{stage.start}..{stage.stop}",
            stage.worker,
            _state(stage),
            in_bytes(stage.loaded_bytes),
            in_bytes(stage.footprint_bytes),
            _mlx_memory(stage),
            in_bytes(stage.cache_bytes),
            f"{stage.predicted_us / 1000:.1f}" if stage.predicted_us else "",
            f"{stage.decode_us / 1000:.1f}" if stage.decode_us else "",
        )
    parts: list[RenderableType] = [head, table]
    prediction = pipeline.prediction
    if prediction is not None:
        measured = pipeline.measured_tokens_per_second
        parts.append(
            Text(
                f"  one user: predicted {prediction.tokens_per_second:.1f} tok/s "
                f"(ceiling {prediction.ceiling_tokens_per_second:.1f}), "
                + (f"measured {measured:.1f}" if measured else "not measured yet")
                + (
                    f"; {prediction.users} users together: {prediction.users_tokens_per_second:.1f}"
                    if prediction.users > 1
                    else ""
                )
                + f"; first token after a prompt of {prediction.prompt_tokens}: "
                f"{prediction.first_token_s:.1f} s"
            )
        )
        parts += [Text(f"  {note}", style="dim") for note in prediction.notes]
    if pipeline.speculation is not None:
        parts.append(Text(f"  guesses: {_guesses(pipeline.speculation)}", style="dim"))
    if pipeline.proposal:
        parts.append(Text(f"  a better plan: {pipeline.proposal}", style="cyan"))
    return parts


def _guesses(status: SpeculationStatus) -> str:
    """Says how many guesses were right and where they came from, or why there are none."""
    if status.off:
        return f"none; {status.off}"
    if not status.drafted:
        return "none were worth sending yet"
    sources = ", ".join(f"{count} from {name}" for name, count in status.sources.items())
    unused = "".join(f"; no {name}: {reason}" for name, reason in status.unused.items())
    return (
        f"{status.accepted / status.drafted:.0%} right ({sources or 'none'}), "
        f"{status.tokens_per_round:.2f} tokens a round{unused}"
    )


def _requests(report: ClusterReport) -> Table:
    table = _table("request", "model", "age", "prompt read", "reply")
    for request in report.requests:
        table.add_row(
            request.request,
            request.model,
            f"{request.age_s:.0f} s",
            f"{request.prefilled} of {request.prompt_tokens}",
            f"{request.reply_tokens} tokens",
        )
    return table


def _services(report: ClusterReport) -> Table:
    table = _table("service", "node", "pid", "state", "listens at")
    for service in report.services:
        listens = sorted(service.endpoints.values())
        table.add_row(
            service.name,
            service.node,
            str(service.pid),
            service.state,
            "  ".join(x for x in listens if not x.startswith(IPC_PREFIX)),
        )
    return table
