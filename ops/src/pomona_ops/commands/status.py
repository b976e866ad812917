"""``pomona status``: prints the state of a cluster, from its beacons."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import ExitStack
from typing import Final

import orjson

from pomona.cluster_report import (
    ClusterReport,
    ClusterState,
    cluster_report,
)
from pomona.leases import BEACON_INTERVAL_S, LeaseTable
from pomona.transport import BeaconReceiver
from pomona_ops.cluster.beacons import LISTEN_S, collect_beacons, observe_beacons

EXIT_CODES: Final[dict[ClusterState, int]] = {"serving": 0, "degraded": 1, "absent": 2}


def show_status(endpoint: str, cluster: str, as_json: bool, node: str = "") -> int:
    """Prints the state once. Returns the exit code: 0 serving, 1 degraded, 2 no cluster."""
    report = cluster_report(cluster, asyncio.run(collect_beacons(endpoint, cluster)), node)
    if as_json:
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    elif report.state == "absent":
        print(_absent_message(endpoint, cluster), file=sys.stderr)
    else:
        _print(report)
    return EXIT_CODES[report.state]


def watch_status(endpoint: str, cluster: str, node: str = "") -> int:
    """Refreshes the state every second until Ctrl-C, and returns 0 then.

    When standard output is not a terminal, it prints one report after the other, and returns 2
    as soon as no service sends a beacon.
    """
    try:
        asyncio.run(_watch(endpoint, cluster, node))
    except KeyboardInterrupt:
        return 0
    print(_absent_message(endpoint, cluster), file=sys.stderr)
    return EXIT_CODES["absent"]


async def _watch(endpoint: str, cluster: str, node: str) -> None:
    """Returns when the cluster is absent and standard output is not a terminal."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from pomona_ops.commands.status_tables import fitted, rendered

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
                report = cluster_report(cluster, [lease.beacon for lease in leases], node)
                absent = report.state == "absent"
                if live is not None:
                    shown = (
                        Text(_absent_message(endpoint, cluster))
                        if absent
                        else fitted(report, console)
                    )
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

    from pomona_ops.commands.status_tables import rendered

    Console(highlight=False).print(rendered(report))
