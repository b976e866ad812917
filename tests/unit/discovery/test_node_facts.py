"""What a Mac's commands answer becomes facts; what they do not answer stays empty."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pomona_discovery.node_facts import (
    automatic_updates,
    collect_node_facts,
    hardware_overview,
    mac_facts,
    macmon,
    port_kinds,
    sleep_minutes,
)
from pomona_discovery.thunderbolt import rdma_devices, rdma_state, thunderbolt_ports
from support import mac_recordings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (mac_recordings.MESH, [(5, 80, "mini-2", 0), (5, 120, "mini-3", 0), (5, 0, "", 0)]),
        (mac_recordings.OLD_CABLE, [(5, 40, "mini-2", 0)]),
        (mac_recordings.THUNDERBOLT_4, [(4, 40, "mini-m4", 0)]),
        (mac_recordings.DAISY_CHAIN, [(5, 80, "mini-3", 1)]),
        (mac_recordings.HUB, [(5, 80, "studio", 1)]),
        (mac_recordings.NOTHING_CONNECTED, [(5, 0, "", 0)]),
    ],
)
def test_thunderbolt_ports(text: str, expected: list[tuple[int, float, str, int]]) -> None:
    found = [(p.generation, p.gbps, p.peer, p.hops) for p in thunderbolt_ports(text)]
    assert found == expected


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"SPThunderboltDataType": 3}'])
def test_what_is_no_thunderbolt_answer_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the JSON library's message, or ours
        thunderbolt_ports(text)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("enabled\n", "enabled"),
        ("RDMA is disabled\n", "disabled"),
        ("rdma_ctl: not supported on this hardware\n", "unsupported"),
        ("zsh: command not found: rdma_ctl\n", "unsupported"),
        ("", "unknown"),
    ],
)
def test_rdma_state(text: str, state: str) -> None:
    assert rdma_state(text) == state


def test_rdma_devices() -> None:
    assert rdma_devices(mac_recordings.IBV_DEVICES) == ("rdma_en2", "rdma_en3")
    assert rdma_devices(mac_recordings.IBV_NONE) == ()


def test_hardware_overview() -> None:
    found = hardware_overview(mac_recordings.HARDWARE_M4_PRO)
    assert (found["chip"], found["model"], found["memory"]) == ("Apple M4 Pro", "Mac16,11", "64 GB")
    with pytest.raises(ValueError, match="SPHardwareDataType"):
        hardware_overview("{}")


def test_settings_of_power_updates_and_ports() -> None:
    assert sleep_minutes(mac_recordings.PMSET_SERVER) == 0
    assert sleep_minutes(mac_recordings.PMSET_DEFAULT) == 10
    assert automatic_updates(mac_recordings.UPDATES_ON) == "on"
    assert automatic_updates(mac_recordings.UPDATES_OFF) == "off"
    assert automatic_updates("{}") == "unknown"
    kinds = port_kinds(mac_recordings.PORTS)
    assert (kinds["en0"], kinds["en1"], kinds["bridge0"]) == ("ethernet", "wifi", "thunderbolt")


def test_macmon() -> None:
    assert macmon(mac_recordings.MACMON) == (36.8, 61.2)
    with pytest.raises(ValueError, match="no measurement"):
        macmon("command not found")


def test_a_mac_as_a_whole() -> None:
    answers = {
        "hw.model": "Mac16,11\n",
        "iogpu.wired_limit_mb": "57344\n",
        "SPThunderboltDataType": mac_recordings.MESH,
        "status": "enabled\n",
        "/usr/bin/ibv_devices": mac_recordings.IBV_DEVICES,
        "-g": mac_recordings.PMSET_SERVER,
        "/Library/Preferences/com.apple.SoftwareUpdate": mac_recordings.UPDATES_OFF,
        "pipe": mac_recordings.MACMON,
    }

    def run(command: list[str]) -> str:
        return next(answers[word] for word in command if word in answers)

    found = mac_facts(run, (), 1, 2, 3.0)
    assert (found.model, found.wired_limit_bytes >> 20, found.rdma) == (
        "Mac16,11",
        57344,
        "enabled",
    )
    assert len(found.thunderbolt) == 3
    assert (found.watts, found.sleep_minutes, found.automatic_updates) == (36.8, 0, "off")


def test_a_mac_whose_commands_fail_has_empty_facts() -> None:
    def run(command: list[str]) -> str:
        raise FileNotFoundError(command[0])

    found = mac_facts(run, (), 0, 0, 0.0)
    assert (found.model, found.thunderbolt, found.rdma) == ("", (), "unsupported")
    assert (found.sleep_minutes, found.automatic_updates) == (-1, "unknown")


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac is asked")
def test_what_is_not_looked_up_without_macos_is_unknown(tmp_path: Path) -> None:
    found = collect_node_facts(tmp_path)
    assert (found.sleep_minutes, found.automatic_updates) == (-1, "unknown")
    assert found.disk_bytes > 0
