"""Checks of macOS settings: sleep, automatic updates, the wired memory limit."""

from __future__ import annotations

from collections.abc import Iterable

from pomona_ops.doctor.snapshot import Fault, Node, each, unreadable

MAX_WIRED_SHARE = 0.95
MIN_WIRED_SHARE = 0.6
MIN_RESERVE_MIB, MAX_RESERVE_MIB = 3072, 16384
"""Bounds of the memory that the suggested wired limit leaves to the system, an eighth."""


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
        yield unreadable("the time until sleep", node, "run `pmset -g` there")


def _automatic_updates(node: Node) -> Iterable[Fault]:
    if not node.is_mac:
        return
    if node.facts.automatic_updates == "on":
        yield Fault(
            "warning",
            f"{node.name} installs updates automatically, and restarts for them",
            "turn off `Install macOS updates` in System Settings, General, Software Update, "
            "Automatic Updates",
        )
    elif node.facts.automatic_updates == "unknown":
        yield unreadable(
            "the setting for automatic updates",
            node,
            "see System Settings, General, Software Update, Automatic Updates",
        )


def _wired_limit(node: Node) -> Iterable[Fault]:
    limit, memory = node.facts.wired_limit_bytes, node.hardware.memory_bytes
    if not limit or not memory:
        return
    share = f"{limit / 1e9:.0f} of {memory / 1e9:.0f} GB"
    if limit > MAX_WIRED_SHARE * memory:
        yield Fault(
            "critical",
            f"{node.name} lets the GPU wire {share}, which leaves too little for the system",
            f"run `sudo sysctl iogpu.wired_limit_mb={_suggested_limit_mib(memory >> 20)}`",
        )
    elif limit < MIN_WIRED_SHARE * memory:
        yield Fault(
            "warning",
            f"{node.name} lets the GPU wire only {share}",
            "run `sudo sysctl iogpu.wired_limit_mb=0` to restore macOS's own limit",
        )


def _share(node: Node) -> Iterable[Fault]:
    """Finds a share of weights that cannot stay wired: macOS then pages it in for every token."""
    if not node.wirable_bytes or node.share_bytes <= node.wirable_bytes:
        return
    suggested = _suggested_limit_mib(node.hardware.memory_bytes >> 20)
    fits = node.share_bytes <= 0.95 * (suggested << 20)
    yield Fault(
        "warning",
        f"the {node.share_bytes / 1e9:.1f} GB of weights on {node.name} exceed the "
        f"{node.wirable_bytes / 1e9:.1f} GB that macOS lets the GPU keep wired",
        f"run `sudo sysctl iogpu.wired_limit_mb={suggested}` there and restart its stage worker"
        if fits
        else "add a node, or unload a model (`pomona models unload NAME`)",
    )


def _suggested_limit_mib(memory_mib: int) -> int:
    return memory_mib - min(max(memory_mib // 8, MIN_RESERVE_MIB), MAX_RESERVE_MIB)


MACOS_CHECKS = {
    "sleep": each(_sleep, "no Mac goes to sleep", needs="mac"),
    "automatic-updates": each(
        _automatic_updates, "no Mac restarts by itself for updates", needs="mac"
    ),
    "wired-share": each(_share, "every Mac can keep its weights wired", needs="mac"),
    "wired-limit": each(_wired_limit, "the wired memory limit of every Mac is valid", needs="mac"),
}
