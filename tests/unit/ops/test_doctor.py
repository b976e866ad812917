"""Every check of ``pomona doctor`` fails on a faulty cluster and passes on a healthy one."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from pomona.messages.discovery import Hardware, LinkFacts, NodeFacts
from pomona_discovery.thunderbolt import thunderbolt_ports
from pomona_ops.doctor.checks import CHECKS, Finding, diagnose
from pomona_ops.doctor.snapshot import Node, Severity, Snapshot
from support import mac_recordings

GIB = 1 << 30
MAC = Hardware("Apple M4 Pro", 14, 64 * GIB, 48 * GIB, "macOS", "26.2")
FACTS = NodeFacts(
    model="Mac16,11",
    thunderbolt=thunderbolt_ports(mac_recordings.MESH),
    rdma="enabled",
    rdma_devices=("rdma_en2",),
    disk_free_bytes=500 * 10**9,
    disk_bytes=10**12,
    sleep_minutes=0,
    automatic_updates="off",
    clock_s=1000.0,
)


def node(name: str, **changes: Any) -> Node:
    """A healthy node; ``hardware_x`` and ``facts_x`` change its hardware and facts."""
    hardware = {k.removeprefix("hardware_"): v for k, v in changes.items() if "hardware_" in k}
    facts = {k.removeprefix("facts_"): v for k, v in changes.items() if "facts_" in k}
    rest = {k: v for k, v in changes.items() if "hardware_" not in k and "facts_" not in k}
    other = "b" if name == "a" else "a"
    link = LinkFacts(other, "10.0.0.2", "thunderbolt", 80.0, 5.0, 4e9, 1e8)
    base = Node(name, MAC, FACTS, "0.1.0", "0.32.4", 1000.3, (link,))
    return replace(base, hardware=replace(MAC, **hardware), facts=replace(FACTS, **facts), **rest)


def linked(kind: str, rate: float) -> tuple[LinkFacts, ...]:
    return (LinkFacts("a", "10.0.0.1", kind, 80.0, 5.0, rate, 1e6),)


FAILING: dict[str, tuple[dict[str, Any], Severity]] = {
    "macos-version": ({"hardware_os_version": "26.1"}, "warning"),
    "macos-differs": ({"hardware_os_version": "26.2.1"}, "warning"),
    "rdma": ({"facts_rdma": "disabled"}, "critical"),
    "thunderbolt-cable": (
        {"facts_thunderbolt": thunderbolt_ports(mac_recordings.OLD_CABLE)}, "warning",
    ),
    "daisy-chain": ({"facts_thunderbolt": thunderbolt_ports(mac_recordings.HUB)}, "warning"),
    "wifi": ({"links": linked("wifi", 4e9)}, "warning"),
    "asymmetry": ({"links": linked("thunderbolt", 1e9)}, "warning"),
    "sleep": ({"facts_sleep_minutes": 10}, "critical"),
    "automatic-updates": ({"facts_automatic_updates": "on"}, "warning"),
    "wired-limit": ({"facts_wired_limit_bytes": 64 * GIB}, "critical"),
    "memory-mixed": ({"hardware_memory_bytes": 32 * GIB}, "info"),
    "multicast": ({"troubles": ("multicast does not come back: a firewall",)}, "warning"),
    "unreachable": ({"troubles": ("c cannot be reached at any of its addresses",)}, "critical"),
    "duplicate-node": ({"troubles": ("two processes are called b.discovery",)}, "critical"),
    "two-clusters": ({"troubles": ("2 planners are heard (a.planner, b.planner)",)}, "warning"),
    "clock": ({"facts_clock_s": 990.0}, "warning"),
    "disk": ({"facts_disk_free_bytes": 3 * 10**9}, "critical"),
    "versions": ({"pomona": "0.2.0"}, "critical"),
}  # fmt: skip


def faulty(check: str) -> tuple[Snapshot, Severity]:
    """A cluster in which the check finds a fault, and the severity."""
    if check == "ports":
        return Snapshot((node("a"),), ("the gateway (52415)",)), "critical"
    changes, severity = FAILING[check]
    nodes = (node("a"), node("b", **changes))
    # Two equal nodes, and one that differs.
    return Snapshot(
        nodes if check != "memory-mixed" else (*nodes, node("c")), running=True
    ), severity


def of(check: str, snapshot: Snapshot) -> list[Finding]:
    return [finding for finding in diagnose(snapshot) if finding.check == check]


@pytest.mark.parametrize("check", CHECKS)
def test_a_healthy_cluster_passes(check: str) -> None:
    snapshot = Snapshot((node("a"), node("b")), running=True)
    assert [finding.severity for finding in of(check, snapshot)] == ["ok"]


def test_every_check_has_a_failing_case() -> None:
    assert FAILING.keys() | {"ports"} == CHECKS.keys()


@pytest.mark.parametrize("check", CHECKS)
def test_a_fault_is_found_with_its_remedy(check: str) -> None:
    snapshot, severity = faulty(check)
    findings = of(check, snapshot)
    assert severity in [finding.severity for finding in findings], findings
    assert all(finding.remedy for finding in findings)
    who = r"\bb\b" if check != "ports" else "gateway"
    assert any(re.search(who, finding.said) for finding in findings), findings


def test_a_taken_port_is_a_fault_only_without_a_running_cluster() -> None:
    here = (node("a"),)
    before = of("ports", Snapshot(here, ("the gateway (52415)",)))
    assert [finding.severity for finding in before] == ["critical"]
    after = of("ports", Snapshot(here, ("the gateway (52415)",), running=True))
    assert [finding.severity for finding in after] == ["ok"]


@pytest.mark.parametrize(
    ("changes", "check", "severity"),
    [
        ({"facts_thunderbolt": thunderbolt_ports(mac_recordings.THUNDERBOLT_4)},
         "thunderbolt-cable", "info"),
        ({"facts_thunderbolt": thunderbolt_ports(mac_recordings.DAISY_CHAIN)}, "daisy-chain",
         "warning"),
        ({"facts_rdma_devices": ()}, "rdma", "warning"),
        ({"facts_wired_limit_bytes": 16 * GIB}, "wired-limit", "warning"),
        ({"facts_disk_free_bytes": 40 * 10**9}, "disk", "warning"),
        ({"mlx": "0.31.0"}, "versions", "warning"),
        ({"facts_rdma": "unknown"}, "rdma", "info"),
        ({"facts_sleep_minutes": -1}, "sleep", "info"),
        ({"facts_automatic_updates": "unknown"}, "automatic-updates", "info"),
        ({"facts_disk_bytes": 0}, "disk", "info"),
    ],
)  # fmt: skip
def test_faults_of_lower_severity(changes: dict[str, Any], check: str, severity: Severity) -> None:
    findings = of(check, Snapshot((node("a"), node("b", **changes)), running=True))
    assert [finding.severity for finding in findings] == [severity]


MACS_ONLY = (
    "macos-version", "macos-differs", "rdma", "thunderbolt-cable", "daisy-chain", "sleep",
    "automatic-updates", "wired-limit",
)  # fmt: skip


def test_checks_of_macs_are_skipped_without_a_mac() -> None:
    linux = node(
        "a", hardware_os_name="Ubuntu", facts_thunderbolt=(), facts_sleep_minutes=-1,
        facts_automatic_updates="unknown",
    )  # fmt: skip
    for check in MACS_ONLY:
        (finding,) = of(check, Snapshot((linux,)))
        assert finding.said == "not checked: no node is a Mac"


def test_checks_of_macs_ignore_other_nodes() -> None:
    linux = node("b", hardware_os_name="Ubuntu", facts_sleep_minutes=-1, facts_thunderbolt=())
    (finding,) = of("sleep", Snapshot((node("a"), linux)))
    assert (finding.severity, finding.said) == ("ok", "no Mac goes to sleep")


@pytest.mark.parametrize(
    "check", ["wifi", "asymmetry", "memory-mixed", "clock", "versions", "unreachable", "multicast"]
)
def test_checks_of_several_nodes_are_skipped_without_a_cluster(check: str) -> None:
    (finding,) = of(check, Snapshot((node("a", links=()),)))
    assert finding.said == "not checked: no cluster runs"


def test_comparing_checks_are_skipped_with_one_node() -> None:
    (finding,) = of("versions", Snapshot((node("a", links=()),), running=True))
    assert finding.said == "not checked: there is no other node"
