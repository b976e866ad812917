"""Runs ``pomona up`` and the other ``pomona`` commands as processes, on free ports."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil

from pomona.cluster_report import cluster_report
from pomona.parent_watch import LIFELINE_VARIABLE
from pomona.settings import ServiceSettings, read_settings
from pomona.transport import use
from pomona.trust import Trust
from pomona_ops.cluster.beacons import collect_beacons
from pomona_ops.cluster.ports import LOOPBACK, ClusterPorts, is_free
from support.measured_speed import keep, lend
from support.ports import free_ports
from support.processes import lifeline
from support.questions import ANSWER as ANSWER
from support.questions import MODEL as MODEL
from support.questions import QUESTION as QUESTION
from support.waiting import wait_until

READY_S = 120.0
STOP_S = 60.0


def pomona(*arguments: str) -> list[str]:
    """Returns the command line of a ``pomona`` command."""
    return [sys.executable, "-I", "-m", "pomona_ops", *arguments]


def run_pomona(
    *arguments: str, stdin: str | None = None, within_s: float = 120.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a ``pomona`` command until it ends."""
    return subprocess.run(
        pomona(*arguments),
        env=os.environ | variables,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )


@dataclass
class Cluster:
    """A running ``pomona up``, which ends with the process of the tests."""

    process: subprocess.Popen[bytes]
    ports: ClusterPorts
    output_path: Path
    stages: int

    @classmethod
    def start(
        cls,
        folder: Path,
        *arguments: str,
        stages: int = 2,
        ports: ClusterPorts | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Cluster:
        """Starts ``pomona up`` with its state and its output in ``folder``."""
        ports = ports or free_ports()
        folder.mkdir(parents=True, exist_ok=True)
        lend(folder / "state", f"{stages} workers")
        output = folder / "up.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                pomona("up", *arguments, "--stages", str(stages), "--port", str(ports.first)),
                env={
                    **os.environ,
                    "POMONA_STATE_DIR": str(folder / "state"),
                    **(variables or {}),
                    LIFELINE_VARIABLE: str(lifeline()),
                },
                pass_fds=(lifeline(),),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process, ports, output, stages)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def output(self) -> str:
        return self.output_path.read_text(errors="replace")

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60.0, trust_env=False)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5.0, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def wait_ready(self, within_s: float = READY_S) -> None:
        """Raises TimeoutError or RuntimeError with the output of ``pomona up``."""

        def is_ready_or_ended() -> bool:
            return self.is_ready() or self.process.poll() is not None

        try:
            wait_until(is_ready_or_ended, "the cluster is ready", within_s, poll_s=0.05)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; output of `pomona up`:\n{self.output}") from error
        state = self.output_path.parent / "state"
        keep(state, f"{self.stages} workers")
        use(Trust.load(state), f"tcp://{LOOPBACK}:{self.ports.control_subscribe}")
        if self.process.poll() is not None:
            raise RuntimeError(f"`pomona up` ended with {self.process.returncode}:\n{self.output}")

    def chat(self, text: str = QUESTION, max_tokens: int = 32) -> str:
        """Returns the answer at temperature 0. Raises httpx.HTTPError unless the status is 200."""
        with self.client() as client:
            answer = client.post(
                "/v1/chat/completions",
                json={
                    "model": MODEL,
                    "messages": [{"role": "user", "content": text}],
                    "temperature": 0,
                    "max_tokens": max_tokens,
                },
            ).raise_for_status()
        return answer.json()["choices"][0]["message"]["content"]

    def status(self) -> dict[str, Any]:
        """Returns what ``pomona status --json`` prints, without a process of its own."""
        endpoint = f"tcp://{LOOPBACK}:{self.ports.control_subscribe}"
        name = read_settings(ServiceSettings).cluster
        report = cluster_report(name, asyncio.run(collect_beacons(endpoint, name)))
        return orjson.loads(orjson.dumps(report))

    def pids(self) -> dict[str, int]:
        """Returns the process ids from the beacons, by service name without the node."""
        return {
            service["name"].removeprefix(f"{service['node']}."): service["pid"]
            for service in self.status()["services"]
        }

    def processes(self) -> list[psutil.Process]:
        """Returns the supervisor and all its descendants."""
        with suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self.process.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        return []

    def taken_ports(self) -> list[int]:
        used = self.ports.by_use(self.stages).values()
        return [port for port in used if not is_free(port)]

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Signals the cluster to stop. Returns its exit code. Asserts that no process and no port
        is left."""
        processes = self.processes()
        self.process.send_signal(number)
        code = self.process.wait(STOP_S)
        left = [process for process in processes if _runs(process)]
        assert not left, f"still running: {left}\n{self.output}"
        assert not self.taken_ports()
        return code

    def destroy(self) -> None:
        """Ends every process of the cluster, whatever its state."""
        processes = self.processes()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(STOP_S)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def serving(folder: Path, **options: Any) -> Generator[Cluster]:
    """Runs a ready cluster with :meth:`Cluster.start`'s options. Asserts at the end that SIGINT
    leaves no process and no port."""
    running = Cluster.start(folder, **options)
    try:
        running.wait_ready()
        yield running
        assert running.stop() == 0, running.output
    finally:
        running.destroy()
