"""The executables: ``launchctl``, ``systemctl``, ``dscl``, ``useradd``, ``userdel`` and ``id``.

They accept what Pomona may use of each manual, and refuse everything else. Run alone, with Python's
standard library: ``programs.py NAME ARGUMENTS``.
"""

from __future__ import annotations

import configparser
import json
import os
import plistlib
import pwd
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

FOLDER = Path(os.environ["POMONA_TEST_MANAGER"])
STATE = FOLDER / "state.json"
PIDS = FOLDER / "pids.json"
LINGER_S = 0.5
"""Seconds for which launchd knows a label after its bootout."""


def fail(status: int, text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise SystemExit(status)


def load() -> dict[str, Any]:
    empty: dict[str, Any] = {"labels": {}, "units": {}, "accounts": {}, "records": {}}
    return json.loads(STATE.read_text()) if STATE.exists() else empty


def save(state: dict[str, Any]) -> None:
    STATE.write_text(json.dumps(state))


def spawn(command: list[str], variables: dict[str, str], log: str) -> int:
    """Starts a process that outlives this one. Returns its id."""
    with Path(log).open("ab") as file:
        pid = subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True, cwd="/",
        ).pid  # fmt: skip
    pids = json.loads(PIDS.read_text())["pids"] if PIDS.exists() else []
    PIDS.write_text(json.dumps({"pids": [*pids, pid]}))
    return pid


def runs(pid: int) -> bool:
    if not pid:
        return False
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.returncode == 0 and not done.stdout.strip().startswith("Z")


def end(pid: int, number: signal.Signals = signal.SIGTERM) -> None:
    with suppress(ProcessLookupError):
        if runs(pid):
            os.kill(pid, number)


# launchctl(1) --------------------------------------------------------------------------


def launchctl(arguments: list[str]) -> None:
    state = load()
    labels = state["labels"]
    for label, job in list(labels.items()):
        if job["ends_at"] and time.time() > job["ends_at"] and not runs(job["pid"]):
            del labels[label]

    def label_of(target: str) -> str:
        domain, _, label = target.partition("/")
        if domain != "system" or not label.startswith("com."):
            fail(64, f"Unrecognized target specifier: {target}")
        return label

    def start(job: dict[str, Any]) -> None:
        if not runs(job["pid"]):
            plist = job["plist"]
            job["pid"] = spawn(
                plist["ProgramArguments"], plist["EnvironmentVariables"], plist["StandardErrorPath"]
            )

    match arguments:
        case ["bootstrap", "system", path]:
            file = Path(path)
            if not file.is_file():
                fail(5, "Bootstrap failed: 5: Input/output error")
            if file.stat().st_mode & 0o022:
                fail(122, "Path had bad ownership/permissions")
            plist = plistlib.loads(file.read_bytes())
            if plist["Label"] in labels:
                fail(5, "Bootstrap failed: 5: Input/output error")
            job = labels[plist["Label"]] = {"plist": plist, "pid": 0, "ends_at": 0.0}
            start(job)
        case ["bootout", target]:
            job = labels.get(label_of(target))
            if job is None:
                fail(3, "Boot-out failed: 3: No such process")
            end(job["pid"])
            job["ends_at"] = time.time() + LINGER_S
        case ["print", target]:
            label = label_of(target)
            job = labels.get(label)
            if job is None:
                fail(113, f'Could not find service "{label}" in domain for system')
            is_up = runs(job["pid"])
            print(f"{target} = {{\n\tactive count = 1\n\tstate = {'' if is_up else 'not '}running")
            print(f"\tpid = {job['pid']}\n}}" if is_up else "}")
        case ["enable", target]:
            label_of(target)
        case ["kickstart", target]:
            job = labels.get(label_of(target))
            if job is None or job["ends_at"]:
                fail(113, "Could not find service")
            start(job)
        case ["kill", name, target]:
            job = labels.get(label_of(target))
            if job is None:
                fail(113, "Could not find service")
            end(job["pid"], signal.Signals[name])
        case _:
            fail(64, f"Unrecognized subcommand: {' '.join(arguments)}")
    save(state)


# systemctl(1) --------------------------------------------------------------------------


def systemctl(arguments: list[str]) -> None:
    state = load()
    units = state["units"]
    folder = Path(os.environ["POMONA_SERVICE_ROOT"]) / "etc/systemd/system"

    def known(name: str) -> dict[str, Any]:
        unit = units.get(name)
        if unit is None:
            fail(5, f"Unit {name} could not be found.")
        return unit

    def is_up(name: str) -> bool:
        return name in units and runs(units[name]["pid"])

    def start(name: str) -> None:
        unit = known(name)
        if name.endswith(".socket"):
            if is_up(name.replace(".socket", ".service")) and not unit["listens"]:
                fail(1, f"Job for {name} failed: its service is already active, refusing.")
            unit["listens"] = True
        elif not is_up(name):
            section = configparser.ConfigParser(interpolation=None)
            section.optionxform = str  # type: ignore[assignment,method-assign]  # as documented
            section.read_string(unit["content"])
            service = section["Service"]
            variables = dict(x.split("=", 1) for x in shlex.split(service["Environment"]))
            log = service["StandardOutput"].removeprefix("append:")
            unit["pid"] = spawn(shlex.split(service["ExecStart"]), variables, log)

    def stop(name: str) -> None:
        unit = known(name)
        unit["listens"] = False
        end(unit["pid"])
        ends_at = time.monotonic() + 30
        while runs(unit["pid"]) and time.monotonic() < ends_at:
            time.sleep(0.05)

    match arguments:
        case ["daemon-reload"]:
            found = {x.name: x.read_text() for x in folder.glob("pomona-*")}
            for name, content in found.items():
                before = units.get(name, {"pid": 0, "enabled": False, "listens": False})
                units[name] = {**before, "content": content}
            for name in set(units) - set(found):
                del units[name]
        case ["enable", *names] if names:
            for name in names:
                known(name)["enabled"] = True
        case ["disable", "--now", *names] if names:
            for name in names:
                stop(name)
                known(name)["enabled"] = False
        case ["start", *names] if names:
            for name in names:
                start(name)
        case ["stop", *names] if names:
            for name in names:
                stop(name)
        case ["restart", *names] if names:
            for name in names:
                stop(name)
                start(name)
        case ["show", "--property=LoadState,SubState,MainPID", name]:
            up = is_up(name)
            print(f"LoadState={'loaded' if name in units else 'not-found'}")
            print(f"SubState={'running' if up else 'dead'}")
            print(f"MainPID={units[name]['pid'] if up else 0}")
        case _:
            fail(1, f"Unknown command or option: {' '.join(arguments)}")
    save(state)


# Accounts ------------------------------------------------------------------------------


def identity(arguments: list[str]) -> None:
    match arguments:
        case ["-u" | "-g" as option, name]:
            made = load()["accounts"].get(name)
            if made is not None:
                print(made)
                return
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                fail(1, f"id: '{name}': no such user")
            print(entry.pw_uid if option == "-u" else entry.pw_gid)
        case _:
            fail(1, "usage: id -u|-g NAME")


def useradd(arguments: list[str]) -> None:
    expected = [
        "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell",
        "/usr/sbin/nologin",
    ]  # fmt: skip
    if arguments[:-1] != expected:
        fail(2, "useradd: unexpected arguments")
    state = load()
    state["accounts"][arguments[-1]] = 998
    save(state)


def userdel(arguments: list[str]) -> None:
    state = load()
    if len(arguments) != 1 or arguments[0] not in state["accounts"]:
        fail(6, "userdel: user does not exist")
    del state["accounts"][arguments[0]]
    save(state)


def dscl(arguments: list[str]) -> None:
    state = load()
    records = state["records"]
    match arguments:
        case [".", "-list", kind, key]:
            print("root 0\n_taken 300")
            for path, values in records.items():
                if path.startswith(f"{kind}/") and key in values:
                    print(path.rpartition("/")[2], values[key])
        case [".", "-create", path, key, value] if path.count("/") == 2:
            records.setdefault(path, {})[key] = value
            if path.startswith("/Users/") and key == "UniqueID":
                state["accounts"][path.rpartition("/")[2]] = int(value)
        case [".", "-delete", path] if path in records:
            del records[path]
            state["accounts"].pop(path.rpartition("/")[2], None)
        case _:
            fail(64, f"dscl: invalid arguments {arguments}")
    save(state)


PROGRAMS = {
    "launchctl": launchctl,
    "systemctl": systemctl,
    "id": identity,
    "useradd": useradd,
    "userdel": userdel,
    "dscl": dscl,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2:])
