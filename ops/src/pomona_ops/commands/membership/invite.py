"""``pomona invite``: prints the line that lets one machine join."""

from __future__ import annotations

import getpass
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import orjson

from pomona import __version__
from pomona.errors import ConfigurationError
from pomona.trust.invitation import (
    MAX_ADDRESSES,
    Invitation,
    encode_invitation,
    key_hash,
    new_secret,
)
from pomona.trust.join_ledger import VALID_S, LedgerFile
from pomona_discovery.settings import DiscoverySettings
from pomona_ops.cluster.ports import ClusterPorts
from pomona_ops.cluster.started import Target, started_clusters
from pomona_ops.commands.membership.node import (
    ANY,
    beacons_of,
    discovery_settings,
    head_trust,
    is_any,
    keep_network,
    outside_addresses,
    own_discovery,
)

OPEN_DEADLINE_S: Final = 120.0
"""Seconds within which `up` has started its services again; running replies finish first."""


@dataclass(frozen=True, slots=True)
class Door:
    """Addresses at which the head lets new nodes in.

    Attributes:
        opened: this command has opened it.
        is_running: a discovery service serves it now.
    """

    addresses: tuple[tuple[str, int], ...]
    opened: bool
    is_running: bool


def invite(target: Target, as_json: bool) -> int:
    """Prints an invitation on standard output, and what to do with it on standard error."""
    trust = head_trust(target, "pomona invite")
    door = _open_door(target)
    secret, now = new_secret(), time.time()
    line = "pomona join " + encode_invitation(
        Invitation(door.addresses, key_hash(trust.keys.public), secret)
    )
    LedgerFile(target.state_dir).change(lambda ledger: (ledger.issue(secret, now), None))
    commands = _commands(line)
    ends_at = now + VALID_S
    if as_json:
        content = {
            "command": line,
            "commands": commands,
            "expires_at": ends_at,
            "addresses": [f"{host}:{port}" for host, port in door.addresses],
            "running": door.is_running,
        }
        sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    print(line, flush=True)
    until = datetime.fromtimestamp(ends_at).astimezone()
    print(f"\nGood for one machine, until {until:%H:%M}. On that machine:\n", file=sys.stderr)
    for number, command in enumerate(commands, 1):
        print(f"  {number}. {command}", file=sys.stderr)
    print(
        f"\nThe first is only needed where Pomona {__version__} is not installed yet. "
        "`pomona nodes` lists the members.",
        file=sys.stderr,
    )
    if door.opened and door.is_running:
        print("This machine now listens to other machines, members only.", file=sys.stderr)
    if not door.is_running:
        print("The head does not run yet: start it with `pomona up`.", file=sys.stderr)
    return 0


def cancel_invitations(target: Target, as_json: bool) -> int:
    """Cancels every invitation that could still be used, and says how many."""
    head_trust(target, "pomona invite --cancel")
    now = time.time()
    count = LedgerFile(target.state_dir).change(
        lambda ledger: (
            ledger.cancel_open(now),
            sum(x.is_open(now) for x in ledger.invitations),
        )
    )
    if as_json:
        print(orjson.dumps({"cancelled": count}).decode())
    else:
        print(f"{count} open invitation{'' if count == 1 else 's'} cancelled")
    return 0


def _open_door(target: Target) -> Door:
    """Returns where joiners reach the head. A cluster of one machine is opened to others first."""
    settings = discovery_settings(target)
    opened = settings.is_local and not settings.model_fields_set & {"peer_host", "data_host"}
    if opened:
        print("opening this machine to others; replies that run finish first", file=sys.stderr)
        keep_network(target.state_dir, {"data_host": ANY}, {"peer_host": ANY})
        settings = discovery_settings(target)
    runs = any(Path(x.state_dir) == target.state_dir and x.runs() for x in started_clusters())
    ends_at = time.monotonic() + (OPEN_DEADLINE_S if runs else 0.0)
    while True:
        own = own_discovery(beacons_of(target), settings.node)
        endpoint = own.endpoints.get("door", "") if own is not None else ""
        host, _, number = endpoint.removeprefix("tcp://").rpartition(":")
        is_open = host == settings.peer_host
        if is_open or time.monotonic() >= ends_at:
            break
    port = int(number) if is_open else _future_port(target, settings)
    if runs and not is_open:
        raise ConfigurationError(
            "discovery does not let new nodes in; `pomona logs discovery` says why"
        )
    if own is not None and not is_open:
        print(
            "the services here listen on this machine only until they start again", file=sys.stderr
        )
    hosts = [settings.peer_host]
    if is_any(settings.peer_host):
        hosts = outside_addresses()
    if settings.advertised_host:
        hosts = [settings.advertised_host, *hosts]
    hosts = list(dict.fromkeys(hosts))[:MAX_ADDRESSES]
    if not hosts:
        raise ConfigurationError(
            "this machine has no address in a network: connect it, or set "
            "POMONA_DISCOVERY_ADVERTISED_HOST"
        )
    return Door(tuple((host, port) for host in hosts), opened, is_open)


def _future_port(target: Target, settings: DiscoverySettings) -> int:
    """Returns the port of the doorstep of a head that does not run yet."""
    if "door_port" in settings.model_fields_set and settings.door_port:
        return settings.door_port
    return ClusterPorts(target.port).door


def _commands(line: str) -> list[str]:
    """Returns the commands for the other machine: install, join, start."""
    folder = _source_folder()
    if folder is None:
        return [f"uv tool install pomona=={__version__}", line, "pomona up"]
    source = _git_remote(folder)
    fetch = f"git clone {source} pomona" if source else _copy(folder)
    return [f"{fetch} && cd pomona && make install", f".venv/bin/{line}", ".venv/bin/pomona up"]


def _source_folder() -> Path | None:
    """Returns the folder of the project that this command runs from, if there is one."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "uv.lock").is_file() and (folder / "Makefile").is_file():
            return folder
    return None


def _git_remote(folder: Path) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "-C", str(folder), "remote", "get-url", "origin"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
        address = done.stdout.strip()
        # A path of this machine means nothing on another one.
        if "@" in address.partition("://")[2].partition("/")[0]:
            return ""
        return address if "://" in address or ":" in address else ""
    return ""


def _copy(folder: Path) -> str:
    """Returns the command that copies the project's folder from this machine."""
    hosts = outside_addresses()
    source = f"{getpass.getuser()}@{hosts[0] if hosts else 'HEAD'}:{folder}/"
    return f"rsync -a --exclude .venv --exclude .tools {source} pomona"
