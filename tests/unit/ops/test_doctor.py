"""Every check of ``pomona doctor`` fails on a faulty cluster and passes on a healthy one."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from pomona import host
from pomona.messages.control import Pipeline, StageStatus, StageWorkerFacts
from pomona.messages.discovery import (
    DiscoveryFacts,
    Hardware,
    LinkFacts,
    NodeFacts,
    ThunderboltPort,
)
from pomona_discovery.local_network import denial
from pomona_discovery.mac_settings import bridge_members
from pomona_discovery.thunderbolt import thunderbolt_ports
from pomona_ops.cluster import blas
from pomona_ops.doctor.checks import CHECKS, Finding, diagnose, openblas
from pomona_ops.doctor.command import skipped_lines
from pomona_ops.doctor.snapshot import Node, Severity, Snapshot, nodes_of
from support.mac.machines import recorded
from support.node_beacons import node_beacon

GIB = 1 << 30
MAC = Hardware("Apple M4 Pro", 14, 64 * GIB, 48 * GIB, "macOS", "26.2")
PEER = thunderbolt_ports(recorded("thunderbolt_m5max_hub_and_mac.json"))
FACTS = NodeFacts(
    model="Mac16,11",
    thunderbolt=thunderbolt_ports(recorded("thunderbolt_m4max_idle_120.json")),
    disk_free_bytes=500 * 10**9,
    disk_bytes=10**12,
    sleep_minutes=0,
    automatic_updates="off",
    product="Mac mini",
    restarts_after_power_failure="on",
    file_vault="off",
    firewall="off",
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


BRIDGE = ("en2", "en3")


def slow_cable(domain: str, other: str) -> ThunderboltPort:
    """A Thunderbolt 5 port whose cable runs at 40 Gb/s."""
    return ThunderboltPort("port 1", 5, 40.0, "Mac16,11", domain=domain, peer_domain=other)


def cabled(*pairs: tuple[str, str]) -> tuple[ThunderboltPort, ...]:
    """Ports of one Mac; each pair has the domains of a cable's ends, this Mac's first."""
    return tuple(
        ThunderboltPort(f"port {number}", 5, 80.0, "Mac16,11", domain=own, peer_domain=other)
        for number, (own, other) in enumerate(pairs)
    )


TWO_CABLES: dict[str, Any] = {
    "facts_thunderbolt": cabled(("b1", "a1"), ("b2", "a2")),
    "facts_bridge_members": BRIDGE,
}
FAILING: dict[str, tuple[dict[str, Any], Severity]] = {
    "macos-version": ({"hardware_os_version": "13.6.9"}, "critical"),
    "file-vault": ({"facts_file_vault": "on"}, "warning"),
    "power-failure": ({"facts_restarts_after_power_failure": "off"}, "warning"),
    "firewall": ({"facts_firewall": "on"}, "warning"),
    "laptop": ({"facts_product": "MacBook Pro"}, "info"),
    "bridge-loop": (TWO_CABLES, "critical"),
    "thunderbolt-cable": ({"facts_thunderbolt": (slow_cable("b", "a"),)}, "warning"),
    "daisy-chain": ({"facts_thunderbolt": (replace(PEER[1], hops=1),)}, "warning"),
    "local-network": ({"troubles": (denial("b", "10.0.0.1"),)}, "critical"),
    "wifi": ({"links": linked("wifi", 4e9)}, "warning"),
    "asymmetry": ({"links": linked("thunderbolt", 1e9)}, "warning"),
    "sleep": ({"facts_sleep_minutes": 10}, "critical"),
    "automatic-updates": ({"facts_automatic_updates": "on"}, "warning"),
    "wired-limit": ({"facts_wired_limit_bytes": 64 * GIB}, "critical"),
    "wired-share": ({"share_bytes": 50 * GIB, "wirable_bytes": 45 * GIB}, "warning"),
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
    if check == "pipelines":
        reason = "b has too little memory"
        pipeline = Pipeline("tiny", "tiny.gguf", 1, 30, "impossible", reason=reason)
        return Snapshot((node("a"),), running=True, pipelines=(pipeline,)), "critical"
    changes, severity = FAILING[check]
    a: dict[str, Any] = {}
    if check == "thunderbolt-cable":
        a = {"facts_thunderbolt": (slow_cable("a", "b"),)}
    if check == "bridge-loop":
        cables = cabled(("a1", "b1"), ("a2", "b2"))
        a = {"facts_thunderbolt": cables, "facts_bridge_members": BRIDGE}
    nodes = (node("a", **a), node("b", **changes))
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
    assert FAILING.keys() | {"ports", "pipelines"} == CHECKS.keys()


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
        ({"facts_thunderbolt": (replace(slow_cable("b", "x"), generation=4),)},
         "thunderbolt-cable", "info"),
        ({"facts_thunderbolt": (slow_cable("b", "unknown"),)}, "thunderbolt-cable", "info"),
        ({"facts_file_vault": "unknown"}, "file-vault", "info"),
        ({"facts_restarts_after_power_failure": "unknown"}, "power-failure", "info"),
        ({"facts_wired_limit_bytes": 16 * GIB}, "wired-limit", "warning"),
        ({"facts_disk_free_bytes": 40 * 10**9}, "disk", "warning"),
        ({"mlx": "0.31.0"}, "versions", "warning"),
        ({"facts_sleep_minutes": -1}, "sleep", "info"),
        ({"facts_automatic_updates": "unknown"}, "automatic-updates", "info"),
        ({"facts_disk_bytes": 0}, "disk", "info"),
    ],
)  # fmt: skip
def test_faults_of_lower_severity(changes: dict[str, Any], check: str, severity: Severity) -> None:
    findings = of(check, Snapshot((node("a"), node("b", **changes)), running=True))
    assert [finding.severity for finding in findings] == [severity]


MACS_ONLY = (
    "macos-version", "file-vault", "power-failure", "firewall", "laptop", "bridge-loop",
    "thunderbolt-cable", "daisy-chain", "sleep", "automatic-updates", "wired-limit",
    "wired-share",
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


LOOP = (
    cabled(("a1", "b1"), ("a2", "c1")),
    cabled(("b1", "a1"), ("b2", "c2")),
    cabled(("c1", "a2"), ("c2", "b2")),
)
"""Three Macs, each with a cable to each other."""


def loop(*bridging: bool) -> Snapshot:
    return Snapshot(
        tuple(
            node(name, facts_thunderbolt=ports, facts_bridge_members=BRIDGE if bridges else ())
            for name, ports, bridges in zip("abc", LOOP, bridging, strict=True)
        ),
        running=True,
    )


def test_three_macs_in_a_loop_of_bridges_are_critical_with_the_commands_that_end_it() -> None:
    (finding,) = of("bridge-loop", loop(True, True, True))
    assert finding.severity == "critical"
    assert "a, b, c" in finding.said
    assert "sudo ifconfig bridge0 down" in finding.remedy
    assert '-setnetworkserviceenabled "Thunderbolt Bridge" off' in finding.remedy


def test_a_loop_of_cables_is_harmless_when_one_mac_does_not_bridge() -> None:
    (finding,) = of("bridge-loop", loop(True, False, True))
    assert finding.severity == "ok"


def test_a_chain_of_bridges_is_harmless() -> None:
    nodes = (
        node("a", facts_thunderbolt=LOOP[0][:1], facts_bridge_members=BRIDGE),
        node("b", facts_thunderbolt=LOOP[1], facts_bridge_members=BRIDGE),
        node("c", facts_thunderbolt=LOOP[2][1:], facts_bridge_members=BRIDGE),
    )
    (finding,) = of("bridge-loop", Snapshot(nodes, running=True))
    assert finding.severity == "ok"


def test_a_mac_alone_with_two_bridged_cables_warns_of_a_loop() -> None:
    alone = node(
        "a",
        facts_thunderbolt=thunderbolt_ports(recorded("thunderbolt_two_macs_tb4.json")),
        facts_bridge_members=bridge_members(recorded("ifconfig_bridge0_mini.txt")),
    )
    (finding,) = of("bridge-loop", Snapshot((alone,)))
    assert finding.severity == "warning"


@pytest.mark.parametrize(
    "recording", ["thunderbolt_tahoe_tb4_dock.json", "thunderbolt_m5max_tb3_ssd_and_mac.json"]
)
def test_docks_and_disks_are_no_reason_for_a_warning(recording: str) -> None:
    alone = node("a", facts_thunderbolt=thunderbolt_ports(recorded(recording)))
    for check in ("thunderbolt-cable", "daisy-chain", "bridge-loop"):
        (finding,) = of(check, Snapshot((alone,)))
        assert finding.severity == "ok"


def test_the_suggested_wired_limit_leaves_an_eighth_to_the_system() -> None:
    snapshot = Snapshot((node("a", facts_wired_limit_bytes=64 * GIB),))
    (finding,) = of("wired-limit", snapshot)
    assert "iogpu.wired_limit_mb=57344" in finding.remedy


def test_local_network_privacy_is_named_and_not_taken_for_a_closed_port() -> None:
    snapshot = Snapshot((node("a", troubles=(denial("b", "10.0.0.2"),)), node("b")), running=True)
    assert [finding.severity for finding in of("unreachable", snapshot)] == ["ok"]
    (finding,) = of("local-network", snapshot)
    assert "Local Network" in finding.remedy
    assert "tmux" in finding.remedy
    assert "Terminal" in finding.remedy


def test_skipped_checks_are_grouped_and_each_reason_is_given_once() -> None:
    findings = [
        Finding("bridge-loop", "ok", "", skipped="no node is a Mac"),
        Finding("clock", "ok", "well"),
        Finding("rdma", "ok", "", skipped="no node is a Mac"),
        Finding("versions", "ok", "", skipped="no cluster runs"),
    ]
    assert skipped_lines(findings) == [
        "skipped   no node is a Mac: bridge-loop, rdma",
        "skipped   no cluster runs: versions",
    ]
    (long,) = skipped_lines([Finding(f"check-{n}", "ok", "", skipped="why") for n in range(30)])
    assert max(map(len, long.splitlines())) <= 80


def test_what_was_not_looked_at_says_so_and_stays_ok_in_json() -> None:
    for finding in diagnose(Snapshot((node("mac"),))):
        assert bool(finding.skipped) == finding.said.startswith("not checked: ")
        assert finding.severity == "ok" or not finding.skipped


def test_a_missing_openblas_is_told_with_its_cost_and_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for is_linux, found, told in ((True, None, True), (True, "x.so", False), (False, None, False)):
        monkeypatch.setattr(host, "is_linux", lambda is_linux=is_linux: is_linux)
        monkeypatch.setattr(blas, "find_openblas", lambda found=found: found)
        assert ("slower" in blas.missing_openblas()) == told
    missing = openblas("this machine has no OpenBLAS: slower", "install it")
    assert (missing.severity, missing.remedy) == ("info", "install it")
    assert openblas("", "install it").remedy == ""


@pytest.mark.parametrize(
    ("share_gib", "remedy"),
    [(46, "iogpu.wired_limit_mb=57344"), (60, "add a node, or unload a model")],
)
def test_a_share_that_cannot_stay_wired_names_what_helps(share_gib: int, remedy: str) -> None:
    loaded = node("a", share_bytes=share_gib * GIB, wirable_bytes=45 * GIB)
    (finding,) = of("wired-share", Snapshot((loaded,), running=True))
    assert remedy in finding.remedy


def test_a_share_is_the_sum_of_a_nodes_stages() -> None:
    stages = (
        StageStatus("m", 1, 0, 4, "ready", 7, 7),
        StageStatus("n", 2, 0, 4, "loading", 2, 9),
    )
    facts = StageWorkerFacts("metal", 10, 5, stages, wirable_bytes=12)
    beacons = [node_beacon("discovery", DiscoveryFacts(MAC)), node_beacon("w", facts)]
    (found,) = nodes_of(beacons, 0.0)
    assert (found.share_bytes, found.wirable_bytes) == (16, 12)
