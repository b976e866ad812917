"""Node facts, from a Mac made of recordings; empty where a command fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pomona import host
from pomona_discovery import mac_commands
from pomona_discovery.mac_commands import command_path
from pomona_discovery.node_facts import collect_node_facts, mac_facts, parse_macmon
from support.mac.machines import FOLDER, answer_as, be_a_mac, recorded


@pytest.mark.parametrize(
    ("name", "watts", "celsius"),
    [("macmon_0.8.0.json", 7.6835761070251465, 50.0324592590332), ("macmon_old.json", 5.876533,
                                                                  43.73614)],
)  # fmt: skip
def test_power_and_temperature_are_parsed(name: str, watts: float, celsius: float) -> None:
    assert parse_macmon(recorded(name)) == (watts, celsius)


def test_macmon_without_a_measurement_is_rejected() -> None:
    with pytest.raises(ValueError, match="no measurement"):
        parse_macmon("command not found")


@pytest.mark.slow
def test_the_facts_of_a_mac_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be_a_mac(
        monkeypatch,
        system_profiler="thunderbolt_m5max_hub_and_mac.json",
        ibv_devices="ibv_devices_m5max_peer.txt",
        networksetup="networksetup_m5max.txt",
        ifconfig="ifconfig_bridge0_mini.txt",
        pmset="pmset_desktop_default.txt",
        macmon="macmon_0.8.0.json",
        rdma_ctl="rdma_ctl_enabled.txt",
    )
    found = collect_node_facts(tmp_path)
    assert (found.model, found.product, found.rdma) == ("Mac16,9", "MacBook Pro", "enabled")
    assert found.rdma_devices == ("rdma_en1", "rdma_en6", "rdma_en2")
    assert [port.peer for port in found.thunderbolt] == ["", "Mac17,6", ""]
    assert found.bridge_members == ("en2", "en3", "en4")
    assert round(found.watts, 1) == 7.7
    assert (found.sleep_minutes, found.restarts_after_power_failure) == (1, "off")
    assert (found.automatic_updates, found.file_vault, found.firewall) == ("on", "off", "off")
    assert found.disk_bytes > 0


@pytest.mark.slow
def test_macmon_does_not_run_when_the_setting_is_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    be_a_mac(monkeypatch, macmon="macmon_0.8.0.json")
    monkeypatch.setenv("MAC_CALLS", str(tmp_path / "calls"))
    assert collect_node_facts(tmp_path, with_macmon=False).watts == 0
    assert "macmon" not in (tmp_path / "calls").read_text()
    assert collect_node_facts(tmp_path).watts > 0
    assert "macmon pipe -s 1" in (tmp_path / "calls").read_text()


def test_commands_are_found_where_homebrew_puts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("pomona_discovery.mac_commands.PLACES", ("/nowhere", str(FOLDER / "bin")))
    assert command_path("macmon") == str(FOLDER / "bin" / "macmon")


def test_what_a_command_prints_has_a_length_and_a_deadline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mac_commands, "PLACES", (str(tmp_path),))
    monkeypatch.setattr(mac_commands, "MAX_OUTPUT_BYTES", 5)
    monkeypatch.setattr(mac_commands, "COMMAND_DEADLINE_S", 0.5)

    def answer(script: str) -> str:
        command = tmp_path / "zq_command"
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        return mac_commands.run(["zq_command"])

    assert answer("printf 12345; exit 3") == "12345"
    with pytest.raises(OSError, match="more than 5 bytes"):
        answer("exec yes")
    with pytest.raises(OSError, match="status 3: why"):
        answer("echo why >&2; exit 3")
    with pytest.raises(subprocess.TimeoutExpired):
        answer("exec sleep 60")


@pytest.mark.slow
def test_a_mac_whose_commands_fail_has_empty_facts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer_as(monkeypatch, {})
    found = collect_node_facts(tmp_path)
    assert (found.model, found.thunderbolt, found.rdma) == ("", (), "unsupported")
    assert (found.sleep_minutes, found.automatic_updates) == (-1, "unknown")


def test_a_mac_without_the_commands_has_empty_facts() -> None:
    def run(command: list[str]) -> str:
        raise FileNotFoundError(command[0])

    assert mac_facts(run).rdma == "unsupported"


def test_the_mac_of_recordings_refuses_what_a_manual_page_does_not_allow() -> None:
    for call in (["pmset", "-x"], ["ibv_devices", "-v"], ["caffeinate", "-q"]):
        done = subprocess.run(
            [FOLDER / "bin" / call[0], *call[1:]], capture_output=True, text=True, check=False
        )
        assert (done.returncode, "does not allow" in done.stderr) == (64, True)


@pytest.mark.skipif(host.is_mac(), reason="a Mac knows them")
def test_facts_of_macos_are_unknown_on_linux(tmp_path: Path) -> None:
    found = collect_node_facts(tmp_path)
    assert (found.sleep_minutes, found.automatic_updates) == (-1, "unknown")
    assert found.disk_bytes > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"sys_power": null, "all_power": 12.5, "temp": {"c": 40.5, "g": null}}', (12.5, 40.5)),
        ('{"sys_power": 30, "temp": null}', (30.0, 0.0)),
        ('starting\n{"temp": {"cpu": "hot"}}\n', (0.0, 0.0)),
    ],
)
def test_a_macmon_that_lacks_values_still_tells_the_others(
    text: str, expected: tuple[float, float]
) -> None:
    assert parse_macmon(text) == expected
