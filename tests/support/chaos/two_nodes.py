"""Two machines as network namespaces, with supervised services, for faults of every kind.

The head has all five services, the other one discovery and a stage worker. Each pipeline has a
stage on both. Needs root, and ``ip`` with namespaces.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pomona.parent_watch import LIFELINE_VARIABLE
from pomona_ops.cluster.blas import stage_worker_environment
from pomona_ops.cluster.processes import ServiceSpec
from pomona_ops.up.supervisor import Exited, Supervisor, SupervisorEvent
from support.chaos.streams import Stream
from support.clusters import MODEL
from support.measured_speed import keep, lend
from support.members import join
from support.namespaces import PEER_PORT, Network, network, sh
from support.waiting import wait_until

ADDRESSES = {"h": "10.79.0.1", "w": "10.79.0.2"}
NODES = {"h": ("discovery", "stage_worker", "planner", "gateway", "health_watcher"),
         "w": ("discovery", "stage_worker")}  # fmt: skip
GATEWAY_PORT = 52415
READY_S = 180.0
SHARING = "two nodes"
DISK_BYTES = 64 << 20
NOBODY = "02:00:00:00:00:99"
"""Link-layer address that no machine has: frames to it are swallowed."""
CLONE_NEWNET = 0x40000000


class TwoNodes:
    """The running cluster. All methods may be called from the test's thread."""

    def __init__(self, net: Network, folder: Path, *, listens_everywhere: bool) -> None:
        self.folder = folder
        self._listens_everywhere = listens_everywhere
        self.events: list[SupervisorEvent] = []
        self._net = net
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        specs = [self._spec(node, service) for node in NODES for service in NODES[node]]
        self.supervisor = Supervisor(specs, folder / "logs", self.events.append)

    @property
    def url(self) -> str:
        return f"http://{ADDRESSES['h']}:{GATEWAY_PORT}"

    @property
    def services(self) -> list[str]:
        """Names of all services, like ``w.stage_worker``."""
        return [f"{node}.{service}" for node in NODES for service in NODES[node]]

    def start(self) -> None:
        self._thread.start()

        async def start() -> None:
            self.supervisor.start()

        self._run(start())

    def stop(self) -> None:
        self.supervisor.hasten()
        self._run(self.supervisor.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def stream(self, number: int, tokens: int, key: str = "") -> Stream:
        return Stream(self.url, number, tokens, self.enter, key)

    def enter(self) -> None:
        """Moves the calling thread into the head's network, for the rest of its life."""
        with Path(f"/run/netns/{self._net.space('h')}").open("rb") as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot enter the network namespace")

    def wait_ready(self) -> None:
        wait_until(lambda: self._get("/readyz") == 200, "the gateway is ready", READY_S)
        keep(self._state("h"), SHARING)

    def pid(self, name: str) -> int | None:
        """Process id of a service, or None while it is restarted."""
        return self.supervisor.pids().get(name)

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Sends a signal to a service. Returns whether it ran."""
        pid = self.pid(name)
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def resident_bytes(self) -> dict[str, int]:
        return {name: p.memory_info().rss for name, p in self._processes().items()}

    def descriptors(self) -> dict[str, int]:
        return {name: process.num_fds() for name, process in self._processes().items()}

    # The network and the disk ---------------------------------------------------------------

    def swallow(self, sender: str) -> None:
        """Loses everything that a node sends to the other, without a sign."""
        (other,) = ADDRESSES.keys() - {sender}
        self._net.run(
            sender, f"ip neigh replace {ADDRESSES[other]} lladdr {NOBODY} dev eth0 nud permanent"
        )

    def deliver(self, sender: str) -> None:
        """Ends :meth:`swallow`."""
        (other,) = ADDRESSES.keys() - {sender}
        self._net.run(sender, f"ip neigh flush to {ADDRESSES[other]} nud permanent")
        self._net.run(
            sender,
            f"ip neigh replace {ADDRESSES[other]} lladdr {self._hardware_address(other)} "
            "dev eth0 nud reachable",
        )

    def move(self, node: str, address: str) -> None:
        """Gives a node another address instead of its own, as a new DHCP lease does."""
        # Linux removes the other addresses of a subnet together with its first one.
        self._net.run(node, f"ip address del {ADDRESSES[node]}/24 dev eth0")
        self._net.run(node, f"ip address add {address}/24 dev eth0")

    def slow_down(self, sender: str, mbit: int) -> None:
        """Limits the rate at which a node sends."""
        self._net.shape(sender, "eth0", mbit)

    def restore_speed(self, sender: str) -> None:
        self._net.run(sender, "tc qdisc del dev eth0 root")

    def fill_disk(self, node: str) -> None:
        """Fills the disk with a node's state."""
        try:
            with (self._state(node) / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 20))
        except OSError:
            pass

    def free_disk(self, node: str) -> None:
        (self._state(node) / "filler").unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------

    def _get(self, path: str) -> int:
        status: list[int] = []

        def ask() -> None:
            self.enter()
            try:
                answer = httpx.get(f"{self.url}{path}", timeout=30, trust_env=False)
            except httpx.HTTPError:
                return
            status.append(answer.status_code)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(10)
        return status[0] if status else 0

    def _processes(self) -> dict[str, psutil.Process]:
        found = {}
        for name, pid in self.supervisor.pids().items():
            try:
                found[name] = psutil.Process(pid)
            except psutil.NoSuchProcess:
                continue
        return found

    def _hardware_address(self, node: str) -> str:
        (link,) = json.loads(self._net.run(node, "ip -j link show eth0"))
        return str(link["address"])

    def _state(self, node: str) -> Path:
        return self.folder / node

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    def _spec(self, node: str, service: str) -> ServiceSpec:
        other = next(name for name in ADDRESSES if name != node)
        join(self.folder, self._net.tag, node, self._state(node))
        lend(self._state(node), SHARING)
        host = "0.0.0.0" if self._listens_everywhere else ADDRESSES[node]
        short = Path("/tmp") / self._net.tag
        environment = {
            "POMONA_NODE": node,
            "POMONA_CLUSTER": self._net.tag,
            "POMONA_STATE_DIR": str(self._state(node)),
            "POMONA_CONTROL_PUBLISH": f"ipc://{short}.{node}.in",
            "POMONA_CONTROL_SUBSCRIBE": f"ipc://{short}.{node}.out",
            "POMONA_DATA_HOST": host,
            "POMONA_DISCOVERY_PEER_HOST": host,
            "POMONA_DISCOVERY_PROBE_INTERVAL_S": "2",
            "POMONA_DISCOVERY_PEER_PORT": str(PEER_PORT),
            "POMONA_DISCOVERY_PEERS": f"{ADDRESSES[other]}:{PEER_PORT}",
            "POMONA_DISCOVERY_MDNS": "false",
            "POMONA_DISCOVERY_END_SILENT": "true",
            "POMONA_PLANNER_STAGES": "2",
            "POMONA_PLANNER_MODELS": json.dumps([MODEL]),
            "POMONA_GATEWAY_HOST": ADDRESSES["h"],
            "POMONA_GATEWAY_PORT": str(GATEWAY_PORT),
            "POMONA_GATEWAY_REQUIRE_KEY": "false",
        }
        ip = sh("which ip").strip()
        space = self._net.space(node)
        # ``ip`` replaces itself with the service, so a signal reaches that.
        command = (ip, "netns", "exec", space, sys.executable, "-I", "-m", f"pomona_{service}")
        if service == "stage_worker":
            environment |= stage_worker_environment(2)
        return ServiceSpec(
            f"{node}.{service}",
            command,
            environment,
            stop_rank=0 if service == "gateway" else 1,
            standby=service == "stage_worker",
        )

    def restarts(self) -> int:
        return sum(isinstance(event, Exited) for event in self.events)


@contextmanager
def two_nodes(folder: Path, tag: str, *, listens_everywhere: bool = False) -> Generator[TwoNodes]:
    """Runs the cluster until it is ready, and ends it. Asserts that no process is left.

    Args:
        listens_everywhere: services listen on all addresses, and are reached at those that
            discovery measures.

    Skips the test where namespaces or mounts are not available.
    """
    if LIFELINE_VARIABLE in os.environ:
        del os.environ[LIFELINE_VARIABLE]
    with network(tag) as net, ExitStack() as stack:
        net.bridge("s", "br0")
        for node, address in ADDRESSES.items():
            net.plug(node, "eth0", address, "s", "br0")
            state = folder / node
            state.mkdir(parents=True)
            try:
                sh(f"mount -t tmpfs -o size={DISK_BYTES} tmpfs {state}")
            except OSError as error:
                pytest.skip(f"a small disk needs the right to mount: {error}")
            stack.callback(sh, f"umount -l {state}")
        cluster = TwoNodes(net, folder, listens_everywhere=listens_everywhere)
        before = set(psutil.Process().children(recursive=True))
        cluster.start()
        try:
            cluster.wait_ready()
            yield cluster
        finally:
            cluster.stop()
            for node in ADDRESSES:
                for end in ("in", "out"):
                    (Path("/tmp") / f"{net.tag}.{node}.{end}").unlink(missing_ok=True)
        left = set(psutil.Process().children(recursive=True)) - before
        assert not left, f"still running: {left}"
