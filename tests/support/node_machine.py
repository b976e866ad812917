"""A node with a state folder of its own on this machine, and the commands run on it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from pomona.errors import ConfigurationError, PomonaError
from pomona.trust import Trust
from pomona_ops.cli import app
from support.clusters import pomona
from support.ports import free_port
from support.processes import ServiceProcess


@dataclass(frozen=True)
class Done:
    """The result of a command."""

    returncode: int
    stdout: str
    stderr: str


class Machine:
    """A node with a state folder of its own, on which commands run."""

    def __init__(self, folder: Path, name: str) -> None:
        self.state = folder / name
        self.state.mkdir()
        self.door = free_port()
        self._log = folder / f"{name}.log"
        publish, subscribe, peer = free_port(), free_port(), free_port()
        self.peer = f"tcp://127.0.0.1:{peer}"
        self.variables = {
            "POMONA_NODE": name,
            "POMONA_STATE_DIR": str(self.state),
            "POMONA_CONTROL_PUBLISH": f"tcp://127.0.0.1:{publish}",
            "POMONA_CONTROL_SUBSCRIBE": f"tcp://127.0.0.1:{subscribe}",
            "POMONA_DISCOVERY_PEER_HOST": "127.0.0.1",
            "POMONA_DISCOVERY_PEER_PORT": str(peer),
            "POMONA_DISCOVERY_DOOR_PORT": str(self.door),
            "POMONA_DATA_HOST": "127.0.0.1",
        }

    def run(self, *arguments: str) -> Done:
        """Runs a command in this process, which is faster than starting Python again."""
        found = CliRunner().invoke(app, list(arguments), env=self.variables)
        error = found.exception
        if isinstance(error, PomonaError):
            code = 78 if isinstance(error, ConfigurationError) else 1
            return Done(code, found.stdout, f"{found.stderr}pomona: {error}")
        if error is not None and not isinstance(error, SystemExit):
            raise error
        return Done(found.exit_code, found.stdout, found.stderr)

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        done = self.run(*arguments, "--json")
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            pomona(*arguments), env=os.environ | self.variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def discovery(self) -> ServiceProcess:
        return ServiceProcess("discovery", self._log, self.variables)

    def trust(self) -> Trust:
        found = Trust.load(self.state)
        assert found is not None
        return found

    def members(self) -> set[str]:
        return {member.name for member in self.trust().roster.members}


def door_answers(machine: Machine) -> bool:
    """Tests whether the head's doorstep is open."""
    try:
        with socket.create_connection(("127.0.0.1", machine.door), timeout=1):
            return True
    except OSError:
        return False
