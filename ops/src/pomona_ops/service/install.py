"""Installs the services of a node, and takes everything back.

Every step looks at what is there first, so that a second run changes nothing, and one that was cut
off goes on. ``PREFIX/installed.json`` has what was made; ``uninstall`` removes that and no more.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pomona_ops
from pomona import __version__
from pomona.errors import ConfigurationError
from pomona_ops.commands.service import (
    CURRENT,
    UNITS,
    System,
    UnitDescription,
    UnitOptions,
    gateway_address,
    logrotate,
    newsyslog,
    render,
)
from pomona_ops.service.account import ids_of, make_account, owns_all, remove_account
from pomona_ops.service.layout import PREVIOUS, RECORD, Installation, Layout
from pomona_ops.service.manager import (
    Manager,
    ServiceError,
    UnitState,
    check,
    manager,
    wait_for,
)

START_S: Final = 60.0
"""Longest wait until the processes of all services run."""
SETTLE_S: Final = 2.0
"""Seconds for which they must keep running."""
CARRIED: Final = ("*.json", "*.toml", "node", "trust/*.json")
"""Files of an earlier state folder that a node needs: keys, roster, name, network."""


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """Attributes:
    state: state folder of a cluster on this machine whose keys the services take over; None
        for none.
    say: prints a line about a step.
    """

    role: str
    system: System
    user: str
    layout: Layout
    state: Path | None = None
    say: Callable[[str], None] = lambda _: None


def units_of(role: str) -> Sequence[UnitDescription]:
    """Returns the units of a role, in the order of their start."""
    return [unit for unit in UNITS if role in unit.roles]


def install(options: InstallOptions) -> list[UnitState]:
    """Installs and starts the services. Returns their states.

    Raises:
        ConfigurationError: the account may not do this, or a setting is not valid.
        ServiceError: a command fails, or a service does not start.
    """
    layout, system = options.layout, options.system
    _require_administrator(layout)
    former = layout.read()
    installation = former or Installation(options.role, system, options.user)
    if former is not None and (former.role, former.system) != (options.role, system):
        raise ConfigurationError(
            f"this machine is installed as {former.role} with {former.system}: run `pomona "
            "service uninstall --keep-data` first"
        )
    ensure_version(layout, options.say)
    layout.write(installation)
    if ids_of(options.user) is None:
        options.say(f"creating the account {options.user}")
        make_account(options.user, system)
        installation = replace(installation, made_account=True)
        layout.write(installation)
    installation = _make_files(options, installation)
    layout.write(installation)
    changed = _write_units(options)
    driver = manager(system, layout.units(system))
    driver.refresh()
    for unit in units_of(options.role):
        options.say(f"starting {unit.service}")
        driver.load(unit, unit.service in changed)
    return wait_until_running(driver, options.role, layout)


def uninstall(layout: Layout, keep_data: bool, say: Callable[[str], None]) -> None:
    """Stops the services and removes what the installation made. Does nothing without one.

    Args:
        keep_data: leave the settings, the state and the models.

    Raises:
        ConfigurationError: the account may not do this.
        ServiceError: a service does not end, or a command fails.
    """
    _require_administrator(layout)
    installation = layout.read()
    if installation is None:
        return
    system = installation.system
    driver = manager(system, layout.units(system))
    # Discovery is last, so that the others' last beacons are delivered.
    for unit in sorted(units_of(installation.role), key=lambda x: x.service == "discovery"):
        say(f"stopping {unit.service}")
        driver.unload(unit)
    for name in unit_files(installation.role, system):
        (layout.units(system) / name).unlink(missing_ok=True)
    layout.rotation(system).unlink(missing_ok=True)
    driver.refresh()
    kept = {str(layout.settings), str(layout.state)} if keep_data else set[str]()
    for made in map(Path, reversed(installation.made)):
        if not any(str(made) == x or x.startswith(f"{made}/") for x in kept):
            _remove(made, layout)
    if installation.made_account and not keep_data:
        remove_account(installation.user, system)
    _remove(layout.versions, layout)
    for link in (CURRENT, PREVIOUS, RECORD):
        (layout.versions / link).unlink(missing_ok=True)


def restart(layout: Layout, service: str = "") -> list[UnitState]:
    """Restarts one service, or all, each after the one before runs. Returns their states."""
    _require_administrator(layout)
    installation = installed(layout)
    driver = manager(installation.system, layout.units(installation.system))
    units = [x for x in units_of(installation.role) if service in ("", x.service)]
    if not units:
        names = ", ".join(unit.service for unit in units_of(installation.role))
        raise ConfigurationError(f"there is no service {service!r} on this machine; it has {names}")
    for unit in units:
        driver.restart(unit)
    return wait_until_running(driver, installation.role, layout)


def rollback(layout: Layout) -> tuple[str, list[UnitState]]:
    """Makes the version before the current one run. Returns it, and the states of the services.

    Raises ConfigurationError when there is none.
    """
    _require_administrator(layout)
    installed(layout)
    before = layout.version(PREVIOUS)
    if not before:
        raise ConfigurationError("there is no earlier version to go back to")
    layout.switch(before)
    return before, restart(layout)


def states(layout: Layout) -> list[UnitState]:
    """Returns the states of the services. Raises ConfigurationError when none are installed."""
    installation = installed(layout)
    driver = manager(installation.system, layout.units(installation.system))
    return [driver.state(unit) for unit in units_of(installation.role)]


def installed(layout: Layout) -> Installation:
    """Returns the record of the installation. Raises ConfigurationError without one."""
    found = layout.read()
    if found is None:
        raise ConfigurationError(
            f"no services are installed in {layout.versions}: run `pomona service install`"
        )
    return found


def wait_until_running(driver: Manager, role: str, layout: Layout) -> list[UnitState]:
    """Waits until every service has a process that stays. Raises ServiceError with the log."""
    found: list[UnitState] = []

    def are_running() -> bool:
        found[:] = [driver.state(unit) for unit in units_of(role)]
        return all(state.pid for state in found)

    try:
        wait_for(are_running, START_S, "the services did not start")
        before = [state.pid for state in found]
        time.sleep(SETTLE_S)
        if not are_running() or [state.pid for state in found] != before:
            raise ServiceError("the services ended soon after their start")
    except ServiceError as error:
        down = [state for state in found if not state.pid] or found
        raise ServiceError(
            f"{error}: " + "; ".join(_why_down(state, layout.logs) for state in down)
        ) from error
    return found


def _why_down(state: UnitState, logs: Path) -> str:
    """Describes a service that does not run, with the last line of its log."""
    path = logs / f"{state.service}.log"
    with suppress(OSError):
        lines = path.read_text(errors="replace").strip().splitlines()
        if lines:
            return f"{state.service} is {state.state}: {lines[-1][:500]}"
    return f"{state.service} is {state.state}; {path} has nothing"


def _require_administrator(layout: Layout) -> None:
    if layout.root == Path("/") and os.geteuid() != 0:
        raise ConfigurationError("this changes the system: run it with sudo")


def ensure_version(layout: Layout, say: Callable[[str], None]) -> None:
    """Installs the version of this program below the prefix, and makes it the current one.

    Raises ConfigurationError when it is not there and this program is not a clone.
    """
    layout.versions.mkdir(parents=True, exist_ok=True)
    if not (layout.versions / __version__ / "bin" / "python").exists():
        script = Path(pomona_ops.__file__).resolve().parents[2] / "install_prefix.sh"
        if not script.is_file():
            raise ConfigurationError(
                f"{layout.versions} has no version {__version__}: run `sudo "
                f"ops/install_prefix.sh {layout.versions}` in a clone"
            )
        say(f"installing version {__version__} into {layout.versions}")
        check("sh", str(script), str(layout.versions))
    layout.switch(__version__)


def _make_files(options: InstallOptions, installation: Installation) -> Installation:
    """Creates folders and the settings file, with their owners."""
    layout, made = options.layout, list(installation.made)
    models, hub = layout.state / "models", layout.state / "huggingface"
    owner = ids_of(options.user)
    assert owner is not None

    def record(path: Path) -> None:
        if str(path) not in made:
            made.append(str(path))

    def make_folder(path: Path, mode: int, is_theirs: bool) -> None:
        missing = [x for x in (path, *path.parents) if not x.exists() and x != layout.root]
        for folder in reversed(missing):
            folder.mkdir(mode=0o755)
            record(folder)
        if missing:
            path.chmod(mode)
        if is_theirs and not owns_all(options.user):
            os.chown(path, *owner)

    make_folder(layout.units(options.system), 0o755, False)
    make_folder(layout.rotation(options.system).parent, 0o755, False)
    make_folder(layout.settings.parent, 0o755, False)
    for folder in (layout.state, models, hub, layout.logs):
        make_folder(folder, 0o750, True)
    if options.state is not None and not (layout.state / "trust").exists():
        _carry_over(options, owner)
    if not layout.settings.exists():
        record(layout.settings)
        values = {
            "state_dir": str(layout.state), "models_dir": str(models), "hf_home": str(hub),
        }  # fmt: skip
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        layout.settings.write_text(
            f"# Settings of this node's services; see ops/README.md.\n{text}"
        )
        layout.settings.chmod(0o600)
        if not owns_all(options.user):
            os.chown(layout.settings, *owner)
    return replace(installation, made=tuple(made))


def _carry_over(options: InstallOptions, owner: tuple[int, int]) -> None:
    """Copies the keys and the membership of a cluster that ``pomona up`` ran on this machine."""
    assert options.state is not None
    for pattern in CARRIED:
        for path in sorted(options.state.glob(pattern)):
            copy = options.layout.state / path.relative_to(options.state)
            if path.is_file() and not copy.exists():
                if not copy.parent.exists():
                    copy.parent.mkdir(mode=0o700)
                    if not owns_all(options.user):
                        os.chown(copy.parent, *owner)
                shutil.copyfile(path, copy)
                copy.chmod(0o600)
                if not owns_all(options.user):
                    os.chown(copy, *owner)


def unit_options(layout: Layout, user: str) -> UnitOptions:
    """Returns what the units of an installation name. Raises ConfigurationError."""
    host, port = gateway_address(layout.settings)
    return UnitOptions(user, layout.python, layout.settings, layout.logs, host, port)


def unit_files(role: str, system: System) -> list[str]:
    """Returns the names of the unit files of a role."""
    path = Path("/")
    return list(render(role, UnitOptions("x", path, path, path), system))


def _write_units(options: InstallOptions) -> set[str]:
    """Writes the unit files. Returns the services whose files have changed."""
    layout, system = options.layout, options.system
    details = unit_options(layout, options.user)
    changed: set[str] = set()
    for name, content in render(options.role, details, system).items():
        path = layout.units(system) / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            # launchd refuses a file that others can write to.
            path.chmod(0o644)
            service = name.removeprefix("com.pomona.").removeprefix("pomona-")
            changed.add(service.partition(".")[0])
    is_mac = system == "launchd"
    rotation = newsyslog(options.role, details) if is_mac else logrotate(details)
    layout.rotation(system).write_text(rotation)
    return changed


def _remove(path: Path, layout: Layout) -> None:
    """Removes what the installation made. A folder that others use as well stays."""
    if path == layout.root or not path.exists():
        return
    if not path.is_dir() or path.is_symlink():
        path.unlink()
        return
    own = (layout.versions, layout.state, layout.logs)
    if any(path == x or x in path.parents for x in own):
        shutil.rmtree(path)
        return
    with suppress(OSError):
        path.rmdir()
