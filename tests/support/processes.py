"""Starts services as processes of their own, as launchd would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import TracebackType

from pomona.parent_watch import LIFELINE_VARIABLE
from pomona.transport import use
from support.members import join
from support.ports import free_port
from support.waiting import DEADLINE_S as DEADLINE_S

LOOPBACK = "127.0.0.1"


@cache
def lifeline() -> int:
    """Reading end of a pipe whose writing end closes when this process ends."""
    return os.pipe()[0]


class ServiceProcess:
    """One service of one node in a process of its own. Leaving the block kills it."""

    def __init__(
        self, service: str, log: Path, environment: dict[str, str], module: str = ""
    ) -> None:
        """Args: module: what to run; by default the service's own."""
        self.service = service
        self._module = module or f"pomona_{service}"
        self.log = log
        clean = {k: v for k, v in os.environ.items() if not k.startswith("POMONA_")}
        self._environment = clean | environment
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServiceProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                env=self._environment | {LIFELINE_VARIABLE: str(lifeline())},
                pass_fds=(lifeline(),),
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """Ends it with SIGKILL, as a crash would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(DEADLINE_S)

    def stop(self) -> int:
        """Ends it with SIGTERM. Returns its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(DEADLINE_S)

    def wait(self) -> int:
        """Waits until it ends by itself. Returns its exit status."""
        assert self._process is not None
        return self._process.wait(DEADLINE_S)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class Node:
    """The control plane ports of one machine, and the services that use them.

    Nodes of one folder and cluster are members of one roster. This process talks with the keys of
    the node that was made last, and to the control endpoints of each with its own.

    Attributes:
        folder: state folder.
    """

    def __init__(self, name: str, folder: Path, cluster: str = "pomona") -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cluster = cluster
        self.trust = join(folder, cluster, name, self.folder)
        self.publish = f"tcp://{LOOPBACK}:{free_port()}"
        self.subscribe = f"tcp://{LOOPBACK}:{free_port()}"
        self.peer_port = free_port()
        self.peer = f"tcp://{LOOPBACK}:{self.peer_port}"
        use(self.trust, self.publish, self.subscribe)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "POMONA_CLUSTER": self.cluster,
            "POMONA_NODE": self.name,
            "POMONA_CONTROL_PUBLISH": self.publish,
            "POMONA_CONTROL_SUBSCRIBE": self.subscribe,
            "POMONA_STATE_DIR": str(self.folder),
        }

    def discovery(self, *peers: str, **variables: str) -> ServiceProcess:
        environment = {
            **self.environment,
            "POMONA_DISCOVERY_PEER_PORT": str(self.peer_port),
            "POMONA_DISCOVERY_PEERS": ",".join(peers),
            **variables,
        }
        return ServiceProcess("discovery", self._log("discovery"), environment)

    def health_watcher(self, **variables: str) -> ServiceProcess:
        environment = {**self.environment, **variables}
        return ServiceProcess("health_watcher", self._log("health_watcher"), environment)

    def _log(self, service: str) -> Path:
        return self.folder / f"{self.name}.{service}.{self.peer_port}.log"
