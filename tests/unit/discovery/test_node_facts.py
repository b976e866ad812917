"""Node facts, from recorded output of a Mac's commands; empty where a command fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pomona_discovery.node_facts import (
    automatic_updates,
    collect_node_facts,
    mac_facts,
    parse_macmon,
    sleep_minutes,
)
from support import mac_recordings


def test_settings_of_sleep_and_updates_are_parsed() -> None:
    assert sleep_minutes(mac_recordings.PMSET_SERVER) == 0
    assert sleep_minutes(mac_recordings.PMSET_DEFAULT) == 10
    assert automatic_updates(mac_recordings.UPDATES_ON) == "on"
    assert automatic_updates(mac_recordings.UPDATES_OFF) == "off"
    assert automatic_updates("{}") == "unknown"


def test_power_and_temperature_are_parsed() -> None:
    assert parse_macmon(mac_recordings.MACMON) == (36.8, 61.2)
    with pytest.raises(ValueError, match="no measurement"):
        parse_macmon("command not found")


def test_the_facts_of_a_mac_are_read() -> None:
    outputs = {
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
        return next(outputs[word] for word in command if word in outputs)

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


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac knows them")
def test_facts_of_macos_are_unknown_on_linux(tmp_path: Path) -> None:
    found = collect_node_facts(tmp_path)
    assert (found.sleep_minutes, found.automatic_updates) == (-1, "unknown")
    assert found.disk_bytes > 0
