"""The launchd units: their content, and the absence of secrets."""

from __future__ import annotations

import plistlib
import re
from pathlib import Path
from typing import Any

import pytest

from pomona.errors import ConfigurationError
from pomona_gateway.settings import GatewaySettings
from pomona_ops.commands.service import UNITS, UnitOptions, render, write_units

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
    assert unit["KeepAlive"] is True
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
    assert unit["EnvironmentVariables"] == {"POMONA_SETTINGS": str(OPTIONS.settings)}
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
