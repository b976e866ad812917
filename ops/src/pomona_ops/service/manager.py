"""Drivers of launchd and systemd: load, stop and inspect the units of services.

They run ``launchctl`` and ``systemctl`` as launchctl(1) and systemctl(1) describe them. A service
is stopped when its process is gone, not when the command returns.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import psutil

from pomona.errors import PomonaError
from pomona_ops.commands.service import System, UnitDescription

COMMAND_S: Final = 120.0
"""Longest run of one command."""
GONE_S: Final = 30.0
"""Longest wait, beside a service's own, until its process and its label are gone."""
POLL_S: Final = 0.25
EIO: Final = 5
"""Status of ``launchctl bootstrap`` while the label of a former ``bootout`` lingers."""


class ServiceError(PomonaError):
    """launchd or systemd refused a command, or a service does not start or end."""


@dataclass(frozen=True, slots=True)
class UnitState:
    """State of a service's unit.

    Attributes:
        state: as launchd or systemd names it; ``not loaded`` without a unit.
        pid: process id; 0 when none runs.
    """

    service: str
    is_loaded: bool
    state: str
    pid: int


class Manager(Protocol):
    """Operations of launchd or systemd that an installation needs."""

    def load(self, unit: UnitDescription, is_changed: bool) -> None:
        """Loads and starts a unit; a loaded one is loaded again only when its file has changed."""
        ...

    def unload(self, unit: UnitDescription) -> None:
        """Stops a service and forgets its unit. Returns when its process is gone."""
        ...

    def restart(self, unit: UnitDescription) -> None:
        """Stops the process of a service and starts another one."""
        ...

    def state(self, unit: UnitDescription) -> UnitState: ...

    def refresh(self) -> None:
        """Makes the manager read changed unit files."""
        ...


def manager(system: System, units: Path) -> Manager:
    """Returns the driver of a system whose units are in a folder."""
    return Launchd(units) if system == "launchd" else Systemd()


def wait_for(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Polls a condition. Raises ServiceError when it does not hold in time."""
    ends_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > ends_at:
            raise ServiceError(f"{what} within {within_s:.0f} s")
        time.sleep(POLL_S)


def is_gone(pid: int) -> bool:
    """Returns whether a process has ended and its memory is free."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _wait_until_gone(unit: UnitDescription, pid: int) -> None:
    if pid:
        what = f"process {pid} of {unit.service} did not end"
        wait_for(lambda: is_gone(pid), unit.drain_s + GONE_S, what)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command. Raises ServiceError when it is missing or does not end."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ServiceError(f"{command[0]} is not on the PATH") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"`{' '.join(command)}` did not end within {COMMAND_S:.0f} s") from error


def check(*command: str) -> str:
    """Runs a command and returns its output. Raises ServiceError when it fails."""
    done = run(*command)
    if done.returncode:
        text = (done.stderr or done.stdout).strip() or "it printed nothing"
        raise ServiceError(f"`{' '.join(command)}` failed with {done.returncode}: {text}")
    return done.stdout


class Launchd:
    """LaunchDaemons in the domain ``system``.

    Args:
        units: folder of the property lists.
    """

    def __init__(self, units: Path) -> None:
        self._units = units

    def load(self, unit: UnitDescription, is_changed: bool) -> None:
        if self.state(unit).is_loaded:
            if not is_changed:
                check("launchctl", "kickstart", _target(unit))
                return
            self.unload(unit)
        check("launchctl", "enable", _target(unit))
        path = str(self._units / f"{unit.label}.plist")
        ends_at = time.monotonic() + GONE_S
        while True:
            done = run("launchctl", "bootstrap", "system", path)
            if done.returncode == 0:
                return
            if done.returncode != EIO or time.monotonic() > ends_at:
                text = (done.stderr or done.stdout).strip()
                raise ServiceError(f"launchd refuses {path} ({done.returncode}): {text}")
            # The label of a former unit may linger after its bootout.
            self._wait_until_unknown(unit)
            time.sleep(POLL_S)

    def unload(self, unit: UnitDescription) -> None:
        before = self.state(unit)
        if before.is_loaded:
            done = run("launchctl", "bootout", _target(unit))
            # 36 says that the operation is in progress.
            if done.returncode not in (0, 36) and self.state(unit).is_loaded:
                raise ServiceError(f"launchd does not unload {unit.label}: {done.stderr.strip()}")
            self._wait_until_unknown(unit)
        _wait_until_gone(unit, before.pid)

    def restart(self, unit: UnitDescription) -> None:
        before = self.state(unit)
        if before.pid:
            # A service that ends by itself is not started again: its status is 0.
            check("launchctl", "kill", "SIGTERM", _target(unit))
            _wait_until_gone(unit, before.pid)
        check("launchctl", "kickstart", _target(unit))

    def state(self, unit: UnitDescription) -> UnitState:
        done = run("launchctl", "print", _target(unit))
        if done.returncode:
            return UnitState(unit.service, False, "not loaded", 0)
        state = re.search(r"^\s*state = (.+)$", done.stdout, re.MULTILINE)
        pid = re.search(r"^\s*pid = (\d+)$", done.stdout, re.MULTILINE)
        return UnitState(
            unit.service, True, state[1] if state else "unknown", int(pid[1]) if pid else 0
        )

    def refresh(self) -> None:
        """Does nothing: launchd reads a property list when it is loaded."""

    def _wait_until_unknown(self, unit: UnitDescription) -> None:
        wait_for(
            lambda: not self.state(unit).is_loaded,
            unit.drain_s + GONE_S,
            f"launchd still knows {unit.label} after its bootout; it was not forgotten",
        )


def _target(unit: UnitDescription) -> str:
    return f"system/{unit.label}"


class Systemd:
    """Units of the system manager."""

    def load(self, unit: UnitDescription, is_changed: bool) -> None:
        check("systemctl", "enable", *_names(unit))
        before = self.state(unit)
        if is_changed and before.pid:
            # A socket cannot be started while its service runs.
            check("systemctl", "stop", *_names(unit))
            _wait_until_gone(unit, before.pid)
        check("systemctl", "start", *_names(unit))

    def unload(self, unit: UnitDescription) -> None:
        before = self.state(unit)
        if before.is_loaded:
            check("systemctl", "disable", "--now", *_names(unit))
        _wait_until_gone(unit, before.pid)

    def restart(self, unit: UnitDescription) -> None:
        before = self.state(unit)
        check("systemctl", "restart", f"pomona-{unit.service}.service")
        _wait_until_gone(unit, before.pid)

    def state(self, unit: UnitDescription) -> UnitState:
        name = f"pomona-{unit.service}.service"
        text = check("systemctl", "show", "--property=LoadState,SubState,MainPID", name)
        values = {x[0]: x[2] for x in (line.partition("=") for line in text.splitlines())}
        is_loaded = values.get("LoadState") == "loaded"
        state = values.get("SubState", "unknown") if is_loaded else "not loaded"
        return UnitState(unit.service, is_loaded, state, int(values.get("MainPID") or 0))

    def refresh(self) -> None:
        check("systemctl", "daemon-reload")


def _names(unit: UnitDescription) -> list[str]:
    """Names of a service's units; the socket of the gateway comes first."""
    service = f"pomona-{unit.service}.service"
    return ["pomona-gateway.socket", service] if unit.service == "gateway" else [service]
