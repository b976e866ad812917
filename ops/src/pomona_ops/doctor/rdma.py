"""Checks of the requirements of RDMA over Thunderbolt: macOS version, setting, devices."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pomona_ops.doctor.snapshot import Check, Fault, Node, Snapshot, differing, each, unreadable

MIN_MACOS = (26, 2)


def _macos_version(node: Node) -> Iterable[Fault]:
    version = tuple(int(part) for part in re.findall(r"\d+", node.hardware.os_version)[:3])
    if node.is_mac and version < MIN_MACOS:
        yield Fault(
            "warning",
            f"{node.name} runs macOS {node.hardware.os_version}, older than 26.2",
            "update it in System Settings, General, Software Update: RDMA over Thunderbolt "
            "needs 26.2",
        )


def _macos_differs(snapshot: Snapshot) -> Iterable[Fault]:
    if versions := differing({node.name: node.hardware.os_version for node in snapshot.macs}):
        yield Fault(
            "warning",
            f"the nodes run different versions of macOS: {versions}",
            "update all to the same version: RDMA between different versions fails or is slow",
        )


def _rdma(snapshot: Snapshot) -> Iterable[Fault]:
    others = any(node.facts.rdma == "enabled" for node in snapshot.macs)
    for node in snapshot.macs:
        if not any(port.generation >= 5 for port in node.facts.thunderbolt):
            continue
        if node.facts.rdma == "disabled":
            yield Fault(
                "critical" if others else "warning",
                f"RDMA is disabled on {node.name}" + (", but enabled on others" if others else ""),
                "start it into recovery (hold the power button), open Terminal, run "
                "`rdma_ctl enable`, restart",
            )
        elif node.facts.rdma == "unknown":
            yield unreadable("the state of RDMA", node, "run `rdma_ctl status` there")
        elif node.facts.rdma == "enabled" and not node.facts.rdma_devices:
            yield Fault(
                "warning",
                f"RDMA is enabled on {node.name}, but ibv_devices lists no device",
                "connect a Thunderbolt 5 cable from Mac to Mac, and restart that node",
            )


RDMA_CHECKS = {
    "macos-version": each(_macos_version, "every Mac runs macOS 26.2 or later", needs="mac"),
    "macos-differs": Check(_macos_differs, "all Macs run the same version of macOS", needs="mac"),
    "rdma": Check(_rdma, "RDMA is on in every Mac with Thunderbolt 5", needs="mac"),
}
