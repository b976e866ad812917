"""Services are installed, found running, restarted, rolled back and removed without a trace."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner, Result

from pomona import __version__
from pomona.errors import ConfigurationError
from pomona_ops.service import install
from pomona_ops.service.account import ids_of, make_account, remove_account
from pomona_ops.service.command import app
from pomona_ops.service.layout import Layout
from pomona_ops.service.manager import is_gone
from support.ports import free_ports
from support.service_managers import service_managers
from support.waiting import wait_until

SYSTEMS = ("launchd", "systemd")
WORKER = {"discovery", "stage_worker"}


class Machine:
    """A machine with only a folder for its root, and service managers of executables."""

    def __init__(
        self, folder: Path, variables: Mapping[str, str], patch: pytest.MonkeyPatch
    ) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.layout = Layout(self.root)
        self.variables = {
            **variables,
            "POMONA_SERVICE_ROOT": str(self.root),
            "POMONA_STATE_DIR": str(folder / "up"),
            "HOME": str(folder),
        }
        for name, value in self.variables.items():
            patch.setenv(name, value)
        patch.setattr(install, "SETTLE_S", 0.3)
        self.add_version(__version__)

    def add_version(self, version: str) -> None:
        """Makes a version whose services only wait."""
        python = self.layout.versions / version / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\necho "{version} $3 $POMONA_SETTINGS"\nexec sleep 600\n')
        python.chmod(0o755)

    def run(self, *arguments: str) -> Result:
        """Runs ``pomona service`` in this process."""
        return CliRunner().invoke(app, [*arguments])

    def install(self, system: str, role: str = "worker") -> dict[str, int]:
        """Returns the process ids of the services."""
        done = self.run(
            "install",
            "--role",
            role,
            "--system",
            system,
            "--user",
            pwd.getpwuid(os.getuid()).pw_name,
            "--json",
        )
        assert done.exit_code == 0, done.output
        return self.pids(done.stdout)

    def status(self) -> dict[str, int]:
        return self.pids(self.run("status", "--json").stdout)

    def pids(self, output: str) -> dict[str, int]:
        content: dict[str, Any] = json.loads(output)
        return {x["service"]: x["pid"] for x in content["services"]}

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Machine]:
    with service_managers(tmp_path / "manager") as variables:
        yield Machine(tmp_path, variables, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_second_install_changes_nothing_and_a_changed_unit_is_loaded_again(
    machine: Machine, system: str
) -> None:
    first = machine.install(system)
    assert set(first) == WORKER
    assert all(psutil.pid_exists(pid) for pid in first.values())
    files = machine.files()
    assert machine.install(system) == first
    assert machine.files() == files
    units = machine.layout.units("launchd" if system == "launchd" else "systemd")
    [unit] = units.glob("*discovery*")
    unit.write_bytes(unit.read_bytes() + b"\n")
    unit.chmod(0o644)
    again = machine.install(system)
    assert again["stage_worker"] == first["stage_worker"]
    assert again["discovery"] != first["discovery"]
    assert is_gone(first["discovery"])


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_uninstall_ends_every_process_and_leaves_nothing(machine: Machine, system: str) -> None:
    pids = machine.install(system, "head")
    assert len(pids) == 5
    other = machine.root / "usr" / "local" / "somebody"
    other.write_text("")
    done = machine.run("uninstall")
    assert done.exit_code == 0, done.output
    assert all(is_gone(pid) for pid in pids.values())
    assert machine.files() == ["opt", "usr", "usr/local", "usr/local/somebody"]
    assert machine.run("uninstall").exit_code == 0
    with pytest.raises(ConfigurationError, match="pomona service install"):
        install.states(machine.layout)


@pytest.mark.slow
def test_the_data_is_kept_when_that_is_asked(machine: Machine) -> None:
    machine.install("systemd")
    (machine.layout.state / "node.json").write_text("{}")
    assert machine.run("uninstall", "--keep-data").exit_code == 0
    assert (machine.layout.state / "node.json").exists()
    assert machine.layout.settings.exists()
    assert not machine.layout.versions.exists()


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_another_version_runs_under_the_same_path_and_rollback_goes_back(
    machine: Machine, system: str
) -> None:
    first = machine.install(system)
    machine.add_version("9.9.9")
    machine.layout.switch("9.9.9")
    done = machine.run("restart")
    assert done.exit_code == 0, done.output
    second = machine.status()
    assert all(is_gone(pid) for pid in first.values())
    back = machine.run("rollback", "--json")
    assert back.exit_code == 0, back.output
    assert json.loads(back.stdout)["version"] == __version__
    assert all(is_gone(pid) for pid in second.values())
    log = (machine.layout.logs / "discovery.log").read_text().splitlines()
    settings = machine.layout.settings
    versions = (__version__, "9.9.9", __version__)
    assert log == [f"{x} pomona_discovery {settings}" for x in versions]
    # The version before is now the one that was left.
    assert machine.layout.version("previous") == "9.9.9"


@pytest.mark.slow
def test_a_service_that_does_not_stay_is_named_with_its_last_words(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "START_S", 3.0)
    python = machine.layout.versions / __version__ / "bin" / "python"
    python.write_text('#!/bin/sh\n[ "$3" = pomona_discovery ] && exec sleep 600\necho no memory\n')
    done = machine.run(
        "install",
        "--role",
        "worker",
        "--system",
        "launchd",
        "--user",
        pwd.getpwuid(os.getuid()).pw_name,
    )
    assert done.exit_code == 1
    assert "stage_worker is" in done.output
    assert "no memory" in done.output
    assert machine.run("status").exit_code == 1


@pytest.mark.slow
def test_the_keys_of_an_earlier_cluster_are_taken_over_once(
    machine: Machine, tmp_path: Path
) -> None:
    up = tmp_path / "up"
    (up / "logs").mkdir(parents=True)
    (up / "trust").mkdir()
    (up / "models.json").write_text("{}")
    (up / "trust" / "node.json").write_text("keys")
    machine.install("systemd")
    assert (machine.layout.state / "models.json").read_text() == "{}"
    copy = machine.layout.state / "trust" / "node.json"
    assert copy.read_text() == "keys"
    assert copy.stat().st_mode & 0o077 == 0
    copy.write_text("newer keys")
    machine.install("systemd")
    assert copy.read_text() == "newer keys"
    assert (machine.layout.settings.stat().st_mode & 0o077) == 0


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_account_is_made_with_a_free_id_and_removed(machine: Machine, system: str) -> None:
    assert ids_of("_pomona") is None
    make_account("_pomona", "launchd" if system == "launchd" else "systemd")
    found = ids_of("_pomona")
    assert found == ((301, 301) if system == "launchd" else (998, 998))
    remove_account("_pomona", "launchd" if system == "launchd" else "systemd")
    assert ids_of("_pomona") is None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_unit_starts_its_service_with_its_own_variables_and_folders_alone(
    machine: Machine,
) -> None:
    """The caller's variables are not there: the executables start a unit with its own alone."""
    python = machine.layout.versions / __version__ / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    machine.layout.settings.parent.mkdir(parents=True)
    ports = free_ports()
    machine.layout.settings.write_text(
        f'state_dir = "{machine.layout.state}"\nnode = "lone"\n'
        f'control_publish = "tcp://127.0.0.1:{ports.control_publish}"\n'
        f'control_subscribe = "tcp://127.0.0.1:{ports.control_subscribe}"\n'
        f"[discovery]\npeer_port = {ports.peer}\ndoor_port = {ports.door}\n"
    )
    machine.layout.settings.chmod(0o600)
    pids = machine.install("systemd")
    keys = machine.layout.state / "trust" / "node.json"
    wait_until(keys.exists, "discovery has made the node's keys", 120.0)
    assert set(machine.status()) == WORKER
    assert machine.run("uninstall").exit_code == 0
    assert all(is_gone(pid) for pid in pids.values())
    assert machine.files() == ["opt", "usr", "usr/local", "usr/local/etc", "usr/local/etc/pomona",
                               "usr/local/etc/pomona/pomona.toml"]  # fmt: skip
