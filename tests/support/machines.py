"""Machines of a cluster: network namespaces on one bridge, each with a home folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from pomona.parent_watch import LIFELINE_VARIABLE
from support.clusters import pomona
from support.measured_speed import keep, lend
from support.namespaces import Network, network
from support.processes import lifeline
from support.waiting import wait_until

BRIDGE = "br0"
SWITCH = "s"
PORT = 52415
NETWORK = "10.79.0"
PRIVATE = "/mnt"
PROBE_PORT = 22420
"""Port of measurements of links, which send large messages of zeros."""
READY_S = 240.0
SHARING = "a worker a machine"
STOP_S = 60.0


class Machine:
    """One machine, on which ``pomona`` commands run as its only user.

    Attributes:
        home: its home folder, which holds its state.
        private: folder that only this machine sees, at ``PRIVATE``.
    """

    def __init__(self, net: Network, name: str, address: str, folder: Path) -> None:
        self.name = name
        self.address = address
        self.home = folder / name
        self.home.mkdir()
        self.private = folder / f"{name}.private"
        self.private.mkdir()
        self._space = net.space(name)
        self._up: subprocess.Popen[bytes] | None = None
        self.output = folder / f"{name}.up.txt"

    @property
    def state(self) -> Path:
        return self.home / ".pomona" / str(PORT)

    def environment(self, **variables: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("POMONA_")}
        return {
            **clean,
            "HOME": str(self.home),
            "POMONA_NODE": self.name,
            "POMONA_HEALTH_WATCHER_DISK_FREE_WARNING": "0",
            "POMONA_STAGE_WORKER_SPECULATION": "false",
            "POMONA_DISCOVERY_PROBE_PORT": str(PROBE_PORT),
            "POMONA_DISCOVERY_PROBE_INTERVAL_S": "600",
            **variables,
        }

    def inside(self, *command: str) -> list[str]:
        """Returns a command line that runs inside the machine."""
        mount = f'mount --bind {self.private} {PRIVATE} && exec "$@"'
        return [
            "ip", "netns", "exec", self._space, "unshare", "-m", "sh", "-c", mount, "sh", *command
        ]  # fmt: skip

    def run(
        self, *arguments: str, stdin: str = "", within_s: float = 180.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a ``pomona`` command to its end."""
        return subprocess.run(
            self.inside(*pomona(*arguments)),
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )

    def python(self, script: str, *arguments: str, within_s: float = 180.0) -> str:
        """Runs a Python script inside the machine. Returns its output, or raises RuntimeError."""
        done = subprocess.run(
            self.inside(sys.executable, "-c", script, *arguments),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Starts a ``pomona`` command whose output can be read."""
        return subprocess.Popen(
            self.inside(*pomona(*arguments)),
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def up(self, *arguments: str, **variables: str) -> None:
        """Starts ``pomona up``."""
        lend(self.state, SHARING)
        with self.output.open("ab") as output:
            self._up = subprocess.Popen(
                self.inside(*pomona("up", *arguments)),
                env=self.environment(**variables, **{LIFELINE_VARIABLE: str(lifeline())}),
                pass_fds=(lifeline(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ends ``pomona up`` and its child processes."""
        if self._up is None:
            return
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._up.pid).children(recursive=True)
            self._up.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._up.wait(STOP_S)
            for process in children:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        if self._up.poll() is None:
            self._up.kill()
        self._up.wait(STOP_S)
        self._up = None

    def status(self) -> dict[str, Any]:
        """Returns ``pomona status --json``; empty when that fails."""
        done = self.run("status", "--json")
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    def holders(self) -> list[str]:
        """Returns the nodes of the stages of an active pipeline, as this machine hears."""
        pipelines = self.status().get("pipelines", [])
        if not pipelines or pipelines[0]["state"] != "active":
            return []
        return sorted(stage["node"] for stage in pipelines[0]["stages"])

    def wait_held_by(self, *nodes: str) -> None:
        """Waits until an active pipeline is split over exactly these nodes."""
        wait_until(
            lambda: self.holders() == sorted(nodes),
            f"a pipeline over {', '.join(nodes)}; {self.name}: {self.output.read_text()[-3000:]}",
            READY_S,
        )
        keep(self.state, SHARING)


@contextmanager
def machines(tag: str, folder: Path, *names: str) -> Generator[tuple[Network, list[Machine]]]:
    """Yields machines on one bridge. Skips the test where namespaces are not available.

    Args:
        tag: one or two letters, unique among the tests.
    """
    with network(tag) as net, ExitStack() as stack:
        net.bridge(SWITCH, BRIDGE)
        made: list[Machine] = []
        for number, name in enumerate(names, 1):
            address = f"{NETWORK}.{number}"
            net.plug(name, "eth0", address, SWITCH, BRIDGE)
            made.append(Machine(net, name, address, folder))
            stack.callback(made[-1].stop)
        yield net, made
