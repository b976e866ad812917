"""Checks of macOS and its settings."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pomona_ops.doctor.snapshot import Check, Fault, Node, Snapshot, differing, each, unknown

LEAST_MACOS = (26, 2)
MOST_WIRED_SHARE = 0.95
LEAST_WIRED_SHARE = 0.6
LEFT_TO_THE_SYSTEM_MIB = 6144


def _macos_old(node: Node) -> Iterable[Fault]:
    version = tuple(int(part) for part in re.findall(r"\d+", node.hardware.os_version)[:3])
    if node.is_mac and version < LEAST_MACOS:
        yield Fault(
            "warning",
            f"{node.name} runs macOS {node.hardware.os_version}, older than 26.2",
            "update it in System Settings, General, Software Update: RDMA over Thunderbolt "
            "needs 26.2",
        )


def _macos_differs(sight: Snapshot) -> Iterable[Fault]:
    if said := differing({node.name: node.hardware.os_version for node in sight.macs}):
        yield Fault(
            "warning",
            f"the nodes run different versions of macOS: {said}",
            "bring all to the same version: RDMA between different ones fails or is slow",
        )


def _rdma(sight: Snapshot) -> Iterable[Fault]:
    others = any(node.facts.rdma == "enabled" for node in sight.macs)
    for node in sight.macs:
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
            yield unknown("the state of RDMA", node, "look with `rdma_ctl status` there")
        elif node.facts.rdma == "enabled" and not node.facts.rdma_devices:
            yield Fault(
                "warning",
                f"RDMA is enabled on {node.name}, but ibv_devices lists no device",
                "connect a Thunderbolt 5 cable from Mac to Mac, and restart that node",
            )


def _sleep(node: Node) -> Iterable[Fault]:
    if not node.is_mac:
        return
    if node.facts.sleep_minutes > 0:
        yield Fault(
            "critical",
            f"{node.name} sleeps after {node.facts.sleep_minutes} idle minutes",
            "run `sudo pmset -a sleep 0 disksleep 0` there",
        )
    elif node.facts.sleep_minutes < 0:
        yield unknown("the time until sleep", node, "look with `pmset -g` there")


def _updates(node: Node) -> Iterable[Fault]:
    if not node.is_mac:
        return
    if node.facts.automatic_updates == "on":
        yield Fault(
            "warning",
            f"{node.name} installs updates by itself, and restarts for them",
            "turn off `Install macOS updates` in System Settings, General, Software Update, "
            "Automatic Updates",
        )
    elif node.facts.automatic_updates == "unknown":
        yield unknown(
            "the setting for automatic updates",
            node,
            "look in System Settings, General, Software Update, Automatic Updates",
        )


def _wired_limit(node: Node) -> Iterable[Fault]:
    limit, memory = node.facts.wired_limit_bytes, node.hardware.memory_bytes
    if not limit or not memory:
        return
    said = f"{limit / 1e9:.0f} of {memory / 1e9:.0f} GB"
    if limit > MOST_WIRED_SHARE * memory:
        yield Fault(
            "critical",
            f"{node.name} lets the GPU wire {said}: nothing is left for the system",
            "leave it 4 GB at least: `sudo sysctl iogpu.wired_limit_mb="
            f"{(memory >> 20) - LEFT_TO_THE_SYSTEM_MIB}`",
        )
    elif limit < LEAST_WIRED_SHARE * memory:
        yield Fault(
            "warning",
            f"{node.name} lets the GPU wire only {said}",
            "`sudo sysctl iogpu.wired_limit_mb=0` gives macOS's own limit back",
        )


MACS = {
    "macos-version": each(_macos_old, "every Mac runs macOS 26.2 or later", needs="mac"),
    "macos-differs": Check(_macos_differs, "all Macs run the same version of macOS", needs="mac"),
    "rdma": Check(_rdma, "no Mac with Thunderbolt 5 has RDMA off", needs="mac"),
    "sleep": each(_sleep, "no Mac goes to sleep", needs="mac"),
    "automatic-updates": each(_updates, "no Mac restarts by itself for updates", needs="mac"),
    "wired-limit": each(
        _wired_limit, "the memory that MLX may use on Macs is set sensibly", needs="mac"
    ),
}
