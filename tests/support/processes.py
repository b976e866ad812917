"""Real services as processes, and what tests wait for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType

from pomona.messages.control import Beacon
from pomona.parent_watch import LIFELINE_VARIABLE
from pomona.transport import BeaconReceiver
from support.ports import free_port

DEADLINE_S = 20.0
LOOPBACK = "127.0.0.1"


@cache
def lifeline() -> int:
    """Reading end of a pipe that ends with this process, however that ends."""
    return os.pipe()[0]


def wait_until(holds: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until ``holds()`` is true. Fails with ``what`` at the deadline."""
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.02)


async def wait_until_async(
    holds: Callable[[], object], what: str, deadline_s: float = DEADLINE_S
) -> None:
    """The same, while tasks of this loop go on."""
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        await asyncio.sleep(0.02)


class ServiceProcess:
    """One service of one node, as its own process; ended when the block ends."""

    def __init__(self, service: str, log: Path, environment: dict[str, str]) -> None:
        self.service = service
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
                [sys.executable, "-m", f"pomona_{self.service}"],
                env=self._environment | {LIFELINE_VARIABLE: str(lifeline())},
                pass_fds=(lifeline(),),
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(DEADLINE_S)

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(DEADLINE_S)

    def wait(self) -> int:
        """Its exit status, when it ends by itself."""
        assert self._process is not None
        return self._process.wait(DEADLINE_S)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class Node:
    """The ports of one machine's control plane, and services that use them."""

    def __init__(self, name: str, folder: Path, cluster: str = "pomona") -> None:
        self.name = name
        self.folder = folder
        self.cluster = cluster
        self.publish = f"tcp://{LOOPBACK}:{free_port()}"
        self.subscribe = f"tcp://{LOOPBACK}:{free_port()}"
        self.peer_port = free_port()
        self.peer = f"tcp://{LOOPBACK}:{self.peer_port}"

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


class Listener:
    """What a service of ``node`` hears: the newest beacon of each name."""

    def __init__(self, node: Node) -> None:
        self.heard: dict[str, Beacon] = {}
        self.every: list[Beacon] = []
        self._receiver = BeaconReceiver(node.subscribe, node.cluster)
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while True:
            beacon = await self._receiver.receive(0.5)
            if beacon is not None:
                self.heard[beacon.name] = beacon
                self.every.append(beacon)

    async def hears(
        self, what: Callable[[dict[str, Beacon]], object], said: str, deadline_s: float = DEADLINE_S
    ) -> None:
        await wait_until_async(lambda: what(self.heard), said, deadline_s)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._receiver.close()


def metrics_of(beacon: Beacon) -> str:
    """The ``/metrics`` page that a beacon tells of."""
    with urllib.request.urlopen(beacon.endpoints["metrics"], timeout=5) as answer:
        return str(answer.read().decode())
