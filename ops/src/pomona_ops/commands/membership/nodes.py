"""``pomona nodes``: the members of the cluster, who asks to join, and who is nearby."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import orjson

from pomona.messages.control import Beacon
from pomona.trust import Trust
from pomona.trust.digits import grouped
from pomona.trust.join_ledger import JoinRequest, LedgerFile
from pomona.trust.membership import (
    MemberReport,
    WaitingReport,
    member_reports,
    waiting_reports,
)
from pomona_discovery.nearby import NearbyNode, nearby_nodes
from pomona_ops.cluster.started import Target
from pomona_ops.commands.membership.node import beacons_of, open_trust

if TYPE_CHECKING:
    from rich.table import Table

BROWSE_S: Final = 1.5


@dataclass(frozen=True, slots=True)
class NodesReport:
    """Everything that ``pomona nodes --json`` prints.

    Attributes:
        version: of the roster.
        nearby: nodes of other clusters that announce themselves; nothing about them is proven.
    """

    cluster: str
    id: str
    version: int
    members: tuple[MemberReport, ...]
    waiting: tuple[WaitingReport, ...]
    nearby: tuple[NearbyNode, ...]


def show_nodes(target: Target, as_json: bool) -> int:
    """Prints the nodes once. Returns 0."""
    trust = open_trust(target)
    beacons = beacons_of(target)
    requests = LedgerFile(target.state_dir).read().requests if trust.has_cluster_key else ()
    report = nodes_report(trust, beacons, requests, nearby_nodes(BROWSE_S))
    if as_json:
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        _print(report)
    return 0


def nodes_report(
    trust: Trust,
    beacons: list[Beacon],
    requests: tuple[JoinRequest, ...],
    nearby: list[NearbyNode],
) -> NodesReport:
    """Combines roster, beacons, requests and announcements."""
    current = trust.roster
    online = {beacon.node for beacon in beacons if beacon.facts.service == "discovery"}
    return NodesReport(
        cluster=current.name,
        id=current.cluster,
        version=current.version,
        members=member_reports(trust, online),
        waiting=waiting_reports(trust, requests),
        nearby=tuple(x for x in nearby if x.cluster != current.cluster),
    )


def _print(report: NodesReport) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"[bold]{report.cluster}[/], roster version {report.version}")
    table = _table("member", "role", "state", "since", "invited by")
    for member in report.members:
        state = "online" if member.online else "absent"
        table.add_row(
            member.name,
            member.role,
            f"{state}, this machine" if member.here else state,
            _time(member.since),
            member.invited_by,
        )
    console.print(table)
    if report.waiting:
        table = _table("asks to join", "digits", "key", "command")
        for waiting in report.waiting:
            table.add_row(
                waiting.name,
                grouped(waiting.digits) if waiting.digits else "has an invitation",
                waiting.key[:8],
                f"pomona approve {waiting.name}" + (" --replace" if waiting.holder else ""),
            )
        console.print(table)
    if report.nearby:
        table = _table("nearby", "cluster", "address")
        for node in report.nearby:
            address = node.addresses[0] if node.addresses else ""
            table.add_row(node.node, node.cluster, f"{address}:{node.port}")
        console.print(table)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _time(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC).astimezone():%Y-%m-%d %H:%M}" if unix_s else ""
