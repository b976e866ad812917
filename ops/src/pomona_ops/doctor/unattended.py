"""Checks of the settings of macOS without which a Mac does not serve unattended."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pomona_ops.doctor.snapshot import Fault, Node, each, unreadable

MIN_MACOS = (14, 0)
"""Oldest macOS for which MLX is built."""


def _macos_version(node: Node) -> Iterable[Fault]:
    version = tuple(int(part) for part in re.findall(r"\d+", node.hardware.os_version)[:2])
    if node.is_mac and version < MIN_MACOS:
        yield Fault(
            "critical" if version else "info",
            f"{node.name} runs macOS {node.hardware.os_version}; MLX needs macOS 14",
            "update it in System Settings, General, Software Update",
        )


def _file_vault(node: Node) -> Iterable[Fault]:
    if not node.is_mac:
        return
    if node.facts.file_vault == "on":
        yield Fault(
            "warning",
            f"FileVault is on at {node.name}: after a restart nothing runs until someone unlocks "
            "the disk",
            "turn it off in System Settings, Privacy & Security, or restart it with "
            "`sudo fdesetup authrestart`",
        )
    elif node.facts.file_vault == "unknown":
        yield unreadable("the state of FileVault", node, "run `fdesetup status` there")


def _power_failure(node: Node) -> Iterable[Fault]:
    if not node.is_mac or _is_laptop(node):
        return
    if node.facts.restarts_after_power_failure == "off":
        yield Fault(
            "warning",
            f"{node.name} stays off after a power failure",
            "run `sudo pmset -a autorestart 1` there",
        )
    elif node.facts.restarts_after_power_failure == "unknown":
        yield unreadable("the setting autorestart", node, "run `pmset -g` there")


def _firewall(node: Node) -> Iterable[Fault]:
    if node.is_mac and node.facts.firewall == "on":
        yield Fault(
            "warning",
            f"the application firewall of {node.name} is on: it may refuse connections of other "
            "nodes without a question, as nobody is logged in",
            "allow the Python that runs Pomona: `sudo /usr/libexec/ApplicationFirewall/"
            "socketfilterfw --add PYTHON --unblockapp PYTHON`",
        )


def _laptop(node: Node) -> Iterable[Fault]:
    if node.is_mac and _is_laptop(node):
        yield Fault(
            "info",
            f"{node.name} is a {node.facts.product}: it sleeps when its lid is closed, and in "
            "standby on battery, whatever its settings",
            "keep the lid open and the power connected, or close the lid with a display, keyboard "
            "and power connected",
        )


def _is_laptop(node: Node) -> bool:
    return node.facts.product.startswith("MacBook")


UNATTENDED_CHECKS = {
    "macos-version": each(_macos_version, "every Mac runs macOS 14 or later", needs="mac"),
    "file-vault": each(_file_vault, "every Mac starts without a login", needs="mac"),
    "power-failure": each(_power_failure, "every Mac starts after a power failure", needs="mac"),
    "firewall": each(_firewall, "no application firewall is in the way", needs="mac"),
    "laptop": each(_laptop, "no node is a laptop", needs="mac"),
}
