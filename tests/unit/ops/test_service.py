"""The launchd units: their content, and the absence of secrets."""

from __future__ import annotations

import plistlib
import re
import shlex
import subprocess
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pomona.errors import ConfigurationError
from pomona.former_end import former_end
from pomona_gateway.settings import GatewaySettings
from pomona_ops.commands.service import (
    LOGROTATE_FILE,
    NEWSYSLOG_FILE,
    UNITS,
    UnitOptions,
    gateway_address,
    render,
    write_units,
)
from support.clusters import run_pomona

OPTIONS = UnitOptions(
    user="_pomona",
    python=Path("/opt/pomona/bin/python"),
    settings=Path("/usr/local/etc/pomona/pomona.toml"),
    logs=Path("/usr/local/var/log/pomona"),
)
SERVICES = {"discovery", "planner", "stage_worker", "gateway", "health_watcher"}


def _units(role: str) -> dict[str, dict[str, Any]]:
    return {name: plistlib.loads(content) for name, content in render(role, OPTIONS).items()}


@pytest.mark.parametrize(
    ("role", "services"), [("head", SERVICES), ("worker", {"discovery", "stage_worker"})]
)
def test_a_role_has_its_services(role: str, services: set[str]) -> None:
    units = _units(role)
    assert set(units) == {f"com.pomona.{service}.plist" for service in services}
    labels = [unit["Label"] for unit in units.values()]
    assert sorted(labels) == sorted(f"com.pomona.{service}" for service in services)
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", sorted(_units("head")))
def test_a_unit_is_supervised_logged_and_unprivileged(name: str) -> None:
    unit = _units("head")[name]
    assert unit["UserName"] == "_pomona"
    assert unit["KeepAlive"] == {"SuccessfulExit": False}
    assert unit["RunAtLoad"] is True
    assert unit["ThrottleInterval"] >= 1
    assert unit["ProcessType"] in {"Interactive", "Standard"}
    assert unit["SoftResourceLimits"]["NumberOfFiles"] >= 4096
    service = unit["Label"].removeprefix("com.pomona.")
    assert unit["StandardErrorPath"] == f"/usr/local/var/log/pomona/{service}.log"
    assert unit["StandardOutPath"] == unit["StandardErrorPath"]
    assert unit["ProgramArguments"] == [
        "/opt/pomona/bin/python", "-I", "-m", f"pomona_{service}",
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(_units("head")))
def test_a_unit_has_no_secret_and_names_the_settings_file(name: str) -> None:
    unit = _units("head")[name]
    expected = {"POMONA_SETTINGS": str(OPTIONS.settings)}
    if "discovery" in name:
        expected["POMONA_DISCOVERY_END_SILENT"] = "true"
    assert unit["EnvironmentVariables"] == expected
    text = plistlib.dumps(unit).decode()
    assert not re.search(r"secret|password|token|webhook|api.?key|hooks\.", text, re.IGNORECASE)


def test_launchd_waits_longer_than_a_service_drains() -> None:
    units = _units("head")
    for description in UNITS:
        assert units[f"{description.label}.plist"]["ExitTimeOut"] > description.drain_s
    gateway = units["com.pomona.gateway.plist"]
    assert gateway["ExitTimeOut"] > GatewaySettings().drain_deadline_s


def test_an_unknown_role_and_a_relative_path_are_rejected() -> None:
    with pytest.raises(ConfigurationError, match="choose head or worker"):
        render("tail", OPTIONS)
    relative = UnitOptions("_pomona", Path("python"), OPTIONS.settings, OPTIONS.logs)
    with pytest.raises(ConfigurationError, match="absolute"):
        render("head", relative)


def test_units_are_written_and_read_back_the_same(tmp_path: Path) -> None:
    written = write_units("worker", OPTIONS, tmp_path / "units")
    assert {path.name for path in written} == set(_units("worker"))
    for path in written:
        assert plistlib.loads(path.read_bytes()) == _units("worker")[path.name]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path / "file" / "units"))):
        write_units("worker", OPTIONS, tmp_path / "file" / "units")


def test_launchd_binds_the_gateways_port_and_no_other() -> None:
    units = _units("head")
    assert [name for name, unit in units.items() if "Sockets" in unit] == [
        "com.pomona.gateway.plist"
    ]
    socket = units["com.pomona.gateway.plist"]["Sockets"]["gateway"]
    assert (socket["SockNodeName"], socket["SockServiceName"]) == ("127.0.0.1", "52415")


def test_systemd_binds_the_gateways_port_and_restarts_whatever_ends() -> None:
    options = replace(OPTIONS, gateway_host="::", gateway_port=8080)
    units: dict[str, ConfigParser] = {}
    for name, content in render("head", options, "systemd").items():
        units[name] = ConfigParser(interpolation=None)
        units[name].read_string(content.decode())
    assert set(units) == {f"pomona-{service}.service" for service in SERVICES} | {
        "pomona-gateway.socket"
    }
    assert units["pomona-gateway.socket"]["Socket"]["ListenStream"] == "[::]:8080"
    assert units["pomona-gateway.service"]["Unit"]["Requires"] == "pomona-gateway.socket"
    for service in SERVICES:
        unit = units[f"pomona-{service}.service"]["Service"]
        assert (unit["Restart"], unit["User"]) == ("always", "_pomona")
        assert unit["RestartPreventExitStatus"] == "78"
        assert unit["ExecStart"] == f"/opt/pomona/bin/python -I -m pomona_{service}"
        assert f"POMONA_SETTINGS={OPTIONS.settings}" in unit["Environment"]
        assert ("END_SILENT=true" in unit["Environment"]) == (service == "discovery")


def test_systemd_keeps_how_a_service_ended_for_the_next_process(tmp_path: Path) -> None:
    options = replace(OPTIONS, logs=tmp_path)
    units = render("head", options, "systemd")
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation says
    unit.read_string(units["pomona-planner.service"].decode())
    service = unit["Service"]
    kept = Path(service["EnvironmentFile"].removeprefix("-"))
    words = {"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}
    # systemd makes one dollar sign of two.
    for line in ("ExecStopPost", "ExecStartPost"):
        subprocess.run(shlex.split(service[line].replace("$$", "$")), env=words, check=True)
        if line == "ExecStopPost":
            name, _, value = kept.read_text().strip().partition("=")
            assert former_end({name: value}) == "was killed by SIGKILL"
    assert not kept.exists()


def test_the_units_bind_the_address_of_the_settings_file(tmp_path: Path) -> None:
    path = tmp_path / "pomona.toml"
    assert gateway_address(path) == ("127.0.0.1", 52415)
    path.write_text('node = "a"\n[gateway]\nhost = "10.0.0.1"\nport = 80\n')
    assert gateway_address(path) == ("10.0.0.1", 80)
    path.write_text("[gateway")
    with pytest.raises(ConfigurationError, match=re.escape(str(path))):
        gateway_address(path)


@pytest.mark.slow
def test_units_run_the_installed_version_and_are_the_same_on_every_run(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        done = run_pomona("service", "render", "--role", "head", "--output", str(folder))
        assert done.returncode == 0, done.stderr
    one, two = ({x.name: x.read_bytes() for x in folder.iterdir()} for folder in folders)
    assert one == two
    for name, content in one.items():
        if name.endswith(".plist"):
            arguments = plistlib.loads(content)["ProgramArguments"]
            assert arguments[0] == "/opt/pomona/current/bin/python"


def test_newsyslog_rotates_every_log_and_signals_its_service(tmp_path: Path) -> None:
    """A line has the file, owner and group, mode, count, size, when, flags, pid file, signal."""
    write_units("head", OPTIONS, tmp_path)
    lines = (tmp_path / NEWSYSLOG_FILE).read_text().splitlines()
    entries = [line.split() for line in lines if not line.startswith("#")]
    units = _units("head").values()
    assert {entry[0] for entry in entries} == {unit["StandardErrorPath"] for unit in units}
    for log, owner, mode, count, size, when, flags, pid_file, signal in entries:
        assert (owner, mode, when, flags, signal) == ("_pomona:_pomona", "640", "*", "J", "1")
        assert int(count) >= 1
        assert int(size) >= 1024
        assert pid_file == log.removesuffix(".log") + ".pid"


def test_linux_has_the_same_rotation(tmp_path: Path) -> None:
    write_units("worker", OPTIONS, tmp_path, "systemd")
    text = (tmp_path / LOGROTATE_FILE).read_text()
    assert text.startswith(f"{OPTIONS.logs}/*.log {{")
    assert "kill -HUP" in text
    assert text.count("{") == text.count("}")
