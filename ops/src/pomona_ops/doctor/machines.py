"""Checks of every machine: memory, clock, disk, versions."""

from __future__ import annotations

from collections.abc import Iterable

from pomona_ops.doctor.snapshot import Check, Fault, Node, Snapshot, differing, each, unreadable

MEMORY_SPREAD = 1.5
MAX_CLOCK_SKEW_S = 2.0
MIN_DISK_BYTES = 50 * 10**9
MIN_DISK_SHARE = 0.1


def _memory_mixed(snapshot: Snapshot) -> Iterable[Fault]:
    sizes = sorted(
        node.hardware.memory_bytes for node in snapshot.nodes if node.hardware.memory_bytes
    )
    if len(sizes) < 2:
        return
    usual = sizes[len(sizes) // 2]
    for node in snapshot.nodes:
        memory = node.hardware.memory_bytes
        if memory and memory * MEMORY_SPREAD < usual:
            yield Fault(
                "info",
                f"{node.name} has {memory / 2**30:.0f} GB among nodes of {usual / 2**30:.0f} GB",
                "the planner gives it fewer layers, or none; `pomona plan` shows what that costs",
            )


def _clock(node: Node) -> Iterable[Fault]:
    skew = node.facts.clock_s - node.observed_at
    if node.facts.clock_s and node.observed_at and abs(skew) > MAX_CLOCK_SKEW_S:
        yield Fault(
            "warning",
            f"the clock of {node.name} is {abs(skew):.0f} s "
            f"{'ahead of' if skew > 0 else 'behind'} this machine's",
            "turn on `Set time and date automatically` on both (timed, chrony or ntpd)",
        )


def _disk(node: Node) -> Iterable[Fault]:
    free, whole = node.facts.disk_free_bytes, node.facts.disk_bytes
    if whole and (free < MIN_DISK_BYTES or free < MIN_DISK_SHARE * whole):
        yield Fault(
            "critical" if free < MIN_DISK_BYTES / 10 else "warning",
            f"{node.name} has {free / 1e9:.0f} GB of free disk space",
            "remove unused models, or set POMONA_STATE_DIR to another disk",
        )
    elif not whole:
        yield unreadable("the disk", node, "run `df -h` there")


def _versions(snapshot: Snapshot) -> Iterable[Fault]:
    remedy = "install the same release of Pomona on every node"
    if versions := differing({node.name: node.pomona for node in snapshot.nodes}):
        yield Fault("critical", f"the nodes run different versions of Pomona: {versions}", remedy)
    if versions := differing({node.name: node.mlx for node in snapshot.nodes if node.mlx}):
        yield Fault("warning", f"the nodes run different versions of MLX: {versions}", remedy)


MACHINE_CHECKS = {
    "memory-mixed": Check(_memory_mixed, "no node has much less memory than the others", "several"),
    "clock": each(_clock, "the clocks agree", "several"),
    "disk": each(_disk, "every node has free disk space"),
    "versions": Check(_versions, "every node runs the same versions of Pomona and MLX", "several"),
}
