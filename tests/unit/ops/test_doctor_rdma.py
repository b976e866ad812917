"""Tests of what Macs lack for a tensor group over RDMA, from recorded answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pomona.messages.discovery import Hardware, Interface, NodeFacts, ThunderboltPort
from pomona_discovery.mac_settings import bridge_members
from pomona_discovery.thunderbolt import rdma_devices, rdma_state, thunderbolt_ports
from pomona_ops.doctor.checks import Finding, diagnose
from pomona_ops.doctor.rdma import RDMA_CHECKS, rdma_machines
from pomona_ops.doctor.snapshot import Node, Snapshot
from support.mac.machines import recorded

STUDIO = Hardware("Apple M3 Ultra", 32, 512 << 30, 400 << 30, "macOS", "26.2")
FACTS = NodeFacts(
    product="Mac mini",
    rdma=rdma_state(recorded("rdma_ctl_enabled.txt")),
    rdma_devices=rdma_devices(recorded("ibv_devices_m3ultra.txt")),
    interfaces=tuple(
        Interface(f"en{n}", "thunderbolt", address)
        for n in range(2, 8)
        for address in (f"10.0.{n}.1", f"fe80::{n}")
    ),
)
NAMES = ("a", "b", "c")


def macs(**changes: Any) -> Snapshot:
    """Three Macs, each cabled to each; ``changes`` of the facts of ``a``."""
    nodes: list[Node] = []
    for name in NAMES:
        ports = tuple(
            ThunderboltPort(f"port {n}", 5, 80.0, "Mac15,14", 0, "", f"{name}{x}", f"{x}{name}")
            for n, x in enumerate(NAMES)
            if x != name
        )
        facts = replace(FACTS, thunderbolt=ports)
        hardware = STUDIO
        if name == "a":
            version = changes.pop("os_version", hardware.os_version)
            hardware = replace(hardware, os_version=version)
            facts = replace(facts, **changes)
        nodes.append(Node(name, hardware, facts, "0.1.0"))
    return Snapshot(tuple(nodes), running=True)


def faults(snapshot: Snapshot) -> list[Finding]:
    return [x for x in diagnose(snapshot, RDMA_CHECKS) if x.severity != "ok"]


def test_macs_that_have_everything_pass() -> None:
    assert faults(macs()) == []


@pytest.mark.parametrize(
    ("changes", "check", "said", "remedy"),
    [
        ({"os_version": "26.1"}, "rdma-macos", "a runs macOS 26.1", "update macOS"),
        (
            {"rdma": rdma_state(recorded("rdma_ctl_disabled.txt"))},
            "rdma-enabled", "RDMA is disabled on a", "recovery mode",
        ),
        (
            {"rdma_devices": rdma_devices(recorded("ibv_devices_rdma_off.txt"))},
            "rdma-addresses", "names no device", "restart it",
        ),
        (
            {"bridge_members": bridge_members(recorded("ifconfig_bridge0_mini.txt"))},
            "rdma-bridge", "holds en2, en3, en4", "ifconfig bridge0 down",
        ),
        (
            {"interfaces": (Interface("en2", "thunderbolt", "10.0.2.1"),)},
            "rdma-addresses", "cables to 2 Macs, and 1 RDMA port", "an address of its own",
        ),
        ({"product": "Mac Studio"}, "rdma-studio", "beside Ethernet", "other Thunderbolt ports"),
    ],
)  # fmt: skip
def test_what_a_mac_lacks_is_named_with_what_to_do(
    changes: dict[str, Any], check: str, said: str, remedy: str
) -> None:
    [fault] = faults(macs(**changes))
    assert fault.check == check
    assert said in fault.said
    assert remedy in fault.remedy


@pytest.mark.parametrize(
    "recording", ["thunderbolt_air_idle_40.json", "thunderbolt_two_macs_tb4.json"]
)
def test_thunderbolt_4_is_final_and_nobody_is_told_to_enable_rdma(recording: str) -> None:
    snapshot = macs(thunderbolt=thunderbolt_ports(recorded(recording)), rdma="disabled")
    [fault] = faults(snapshot)
    assert fault.check == "rdma-hardware"
    assert "nothing adds it" in fault.remedy
    assert "rdma_ctl" not in fault.remedy


def test_a_missing_cable_and_a_second_one_are_told_by_pair() -> None:
    first = macs().nodes[0].facts.thunderbolt
    a, b, c = macs().nodes
    alone = replace(b, facts=replace(b.facts, thunderbolt=b.facts.thunderbolt[1:]))
    cut = replace(a, facts=replace(a.facts, thunderbolt=first[1:]))
    assert [x.said for x in faults(Snapshot((cut, alone, c), running=True))] == [
        "no Thunderbolt cable joins a and b directly"
    ]
    second = replace(first[0], name="port 9", domain="ab2", peer_domain="ba2")
    other = replace(second, domain="ba2", peer_domain="ab2")
    twice = [
        replace(node, facts=replace(node.facts, thunderbolt=(*node.facts.thunderbolt, port)))
        for node, port in ((a, second), (b, other))
    ]
    said = [x.said for x in faults(Snapshot((*twice, c), running=True))]
    assert said == ["2 Thunderbolt cables join a and b"]


def test_a_bug_report_has_each_macs_facts() -> None:
    [first, *_] = rdma_machines(macs())
    assert first["rdma_devices"][0] == "rdma_en2"
    assert (first["macos"], first["thunderbolt"], first["rdma"]) == ("26.2", 5, "enabled")


def test_without_a_mac_every_check_says_so() -> None:
    linux = Node("x", replace(STUDIO, os_name="Linux"), NodeFacts(), "0.1.0")
    findings = diagnose(Snapshot((linux,)), RDMA_CHECKS)
    assert {x.severity for x in findings} == {"ok"}
    assert all(x.skipped for x in findings)
