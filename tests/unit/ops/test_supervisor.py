"""The supervisor, with small programs as services."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from pomona.service import EXIT_CONFIGURATION
from pomona_ops.cluster.processes import ServiceSpec
from pomona_ops.up import supervisor as supervisor_module
from pomona_ops.up.supervisor import (
    Draining,
    Exited,
    Silent,
    Started,
    Stopped,
    Supervisor,
    SupervisorEvent,
)
from support.waiting import DEADLINE_S, wait_until, wait_until_async

ANSWERS = """
import os, socket
listener = socket.socket(fileno=int(os.environ["POMONA_GATEWAY_LISTEN_FD"]))
while True:
    client = listener.accept()[0]
    client.sendall(str(os.getpid()).encode())
    client.close()
"""
DRAINS = """
import os, signal, socket, sys, threading
from pathlib import Path
listener = socket.socket(fileno=int(os.environ["POMONA_GATEWAY_LISTEN_FD"]))
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=drain).start())
def drain():
    listener.close()
    print("drains", flush=True)
    while not Path(FILE).exists():
        done.wait(0.01)
    os._exit(0)
print("up", flush=True)
while True:
    try:
        client = listener.accept()[0]
    except OSError:
        done.wait()
    client.sendall(str(os.getpid()).encode())
    client.close()
"""
WAITS_ITS_TURN = """
import os, time
from pomona.standby import wait_for_turn
print("imported", flush=True)
wait_for_turn()
print("runs", os.getpid(), flush=True)
time.sleep(600)
"""
RUNS = "import time\nprint('up', flush=True)\ntime.sleep(600)"
IGNORES_SIGTERM = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{RUNS}"
FAILS = 'import sys\nprint(\'{"level": "error", "event": "no cheese"}\')\nsys.exit(3)'
MISCONFIGURED = f"raise SystemExit({EXIT_CONFIGURATION})"


def _spec(name: str, script: str, rank: int = 1, stop_s: float = 5.0) -> ServiceSpec:
    command = (sys.executable, "-I", "-c", script)
    return ServiceSpec(name, command, stop_rank=rank, stop_s=stop_s)


@dataclass
class Running:
    """A running supervisor, and its events."""

    supervisor: Supervisor
    events: list[SupervisorEvent] = field(default_factory=list[SupervisorEvent])

    def started(self, name: str) -> list[int]:
        return [x.pid for x in self.events if isinstance(x, Started) and x.name == name]


@asynccontextmanager
async def supervising(
    tmp_path: Path, *specs: ServiceSpec, listener: socket.socket | None = None
) -> AsyncGenerator[Running]:
    events: list[SupervisorEvent] = []
    before = set(psutil.Process().children())
    supervisor = Supervisor(specs, tmp_path, events.append, listener)
    supervisor.start()
    try:
        yield Running(supervisor, events)
    finally:
        supervisor.hasten()
        await supervisor.stop()
        assert not set(psutil.Process().children()) - before


def _printed(tmp_path: Path, name: str) -> str:
    log = tmp_path / f"{name}.log"
    return log.read_text() if log.exists() else ""


async def _kill_and_wait(tmp_path: Path) -> list[SupervisorEvent]:
    async with supervising(tmp_path, _spec("a", RUNS), _spec("b", RUNS)) as running:
        await wait_until_async(lambda: len(running.supervisor.pids()) == 2, "two processes")
        b = running.supervisor.pids()["b"]
        os.kill(running.supervisor.pids()["a"], signal.SIGKILL)
        await wait_until_async(lambda: len(running.started("a")) == 2, "the restart")
        assert running.supervisor.pids()["b"] == b
        return list(running.events)


def test_a_killed_process_is_restarted_and_the_others_are_left_alone(tmp_path: Path) -> None:
    events = asyncio.run(_kill_and_wait(tmp_path))
    (exited,) = [event for event in events if isinstance(event, Exited)]
    assert (exited.name, exited.cause, exited.restart_s) == ("a", "was killed by SIGKILL", 0.2)
    assert [x.is_restart for x in events if isinstance(x, Started) and x.name == "a"] == [
        False,
        True,
    ]


def test_the_last_error_of_a_process_is_reported_and_its_output_is_logged(tmp_path: Path) -> None:
    async def run() -> list[SupervisorEvent]:
        async with supervising(tmp_path, _spec("a", FAILS)) as running:
            await wait_until_async(
                lambda: any(isinstance(x, Exited) for x in running.events), "an exit"
            )
            return list(running.events)

    (exited,) = [event for event in asyncio.run(run()) if isinstance(event, Exited)]
    assert (exited.cause, exited.last_error) == ("exited with code 3", "no cheese")
    assert "no cheese" in _printed(tmp_path, "a")


def test_invalid_settings_end_the_whole_run(tmp_path: Path) -> None:
    async def run() -> list[SupervisorEvent]:
        specs = _spec("a", MISCONFIGURED), _spec("b", RUNS)
        async with supervising(tmp_path, *specs) as running:
            async with asyncio.timeout(DEADLINE_S):
                await running.supervisor.gave_up.wait()
            return list(running.events)

    (exited,) = [event for event in asyncio.run(run()) if isinstance(event, Exited)]
    assert (exited.name, exited.restart_s) == ("a", None)


def test_processes_stop_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    async def run() -> list[SupervisorEvent]:
        specs = _spec("last", RUNS, 2), _spec("first", RUNS, 0), _spec("middle", RUNS, 1)
        async with supervising(tmp_path, *specs) as running:
            await wait_until_async(lambda: len(running.supervisor.pids()) == 3, "three processes")
            await running.supervisor.stop()
            return list(running.events)

    stopped = [event for event in asyncio.run(run()) if isinstance(event, Stopped)]
    assert [event.name for event in stopped] == ["first", "middle", "last"]
    assert not any(event.forced for event in stopped)


@pytest.mark.slow
@pytest.mark.parametrize("hastened", [False, True])
def test_a_process_that_will_not_stop_is_killed(tmp_path: Path, hastened: bool) -> None:
    async def run() -> list[SupervisorEvent]:
        stop_s = 600.0 if hastened else 0.2
        async with supervising(tmp_path, _spec("a", IGNORES_SIGTERM, stop_s=stop_s)) as running:
            await wait_until_async(lambda: "up" in _printed(tmp_path, "a"), "the process runs")
            stopping = asyncio.create_task(running.supervisor.stop())
            if hastened:
                running.supervisor.hasten()
            async with asyncio.timeout(DEADLINE_S):
                await stopping
            return list(running.events)

    assert asyncio.run(run())[-1] == Stopped("a", forced=True)


def test_a_process_that_waits_for_its_restart_is_not_started_during_stop(tmp_path: Path) -> None:
    async def run() -> list[SupervisorEvent]:
        async with supervising(tmp_path, _spec("a", FAILS)) as running:
            await wait_until_async(
                lambda: any(isinstance(x, Exited) and x.restart_s == 0.8 for x in running.events),
                "the wait for the third restart",
            )
            before = len(running.started("a"))
            await running.supervisor.stop()
            assert len(running.started("a")) == before
            return list(running.events)

    assert isinstance(asyncio.run(run())[-1], Exited)


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from pomona_ops.cluster.processes import ServiceSpec
from pomona_ops.up.supervisor import Supervisor

SERVICE = '''
import asyncio
from pomona.service import run_service
from pomona.settings import ServiceSettings

async def main(stop):
    print("up", flush=True)
    await stop.wait()

run_service("gateway", ServiceSettings(), main)
'''

async def main():
    spec = ServiceSpec("a", (sys.executable, "-I", "-c", SERVICE))
    tell = lambda event: print(getattr(event, "pid", ""), flush=True)
    Supervisor([spec], Path(sys.argv[1]), tell).start()
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_service_ends_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-c", SUPERVISOR, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        service = psutil.Process(int(supervisor.stdout.readline()))
        try:
            wait_until(lambda: "up" in _printed(tmp_path, "a"), "the service runs")
            supervisor.kill()
            supervisor.wait(DEADLINE_S)
            wait_until(
                lambda: not service.is_running() or service.status() == psutil.STATUS_ZOMBIE,
                "the service ends",
            )
        finally:
            supervisor.kill()
            with suppress(psutil.NoSuchProcess):
                service.kill()


async def _stop_for_good_and_end(tmp_path: Path) -> list[SupervisorEvent]:
    async with supervising(tmp_path, _spec("a", IGNORES_SIGTERM)) as running:
        await wait_until_async(lambda: "up" in _printed(tmp_path, "a"), "a running process")
        os.kill(running.supervisor.pids()["a"], signal.SIGSTOP)
        await running.supervisor.end_silent("a")
        await wait_until_async(lambda: len(running.started("a")) == 2, "the restart")
        return list(running.events)


def test_a_stopped_process_without_beacons_is_killed_and_restarted(tmp_path: Path) -> None:
    events = asyncio.run(_stop_for_good_and_end(tmp_path))
    assert [event.name for event in events if isinstance(event, Silent)] == ["a"]
    assert [x.cause for x in events if isinstance(x, Exited)] == ["was killed by SIGKILL"]


def test_clients_wait_while_the_process_that_listens_is_restarted(tmp_path: Path) -> None:
    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        spec = replace(_spec("a", ANSWERS), listens=True)

        async def ask() -> int:
            async with asyncio.timeout(DEADLINE_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                answer = int(await reader.read())
                writer.close()
                return answer

        async with supervising(tmp_path, spec, listener=listener) as running:
            first = await ask()
            os.kill(first, signal.SIGKILL)
            await wait_until_async(lambda: not running.supervisor.pids(), "the end")
            assert await ask() != first
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(run())


@pytest.mark.slow
def test_a_standby_takes_the_place_of_a_killed_process_and_ends_with_the_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "STANDBY_AFTER_S", 0.0)

    async def run() -> None:
        spec = replace(_spec("a", WAITS_ITS_TURN), standby=True)
        async with supervising(tmp_path, spec) as running:
            for number in range(1, 4):
                await wait_until_async(
                    lambda n=number: _printed(tmp_path, "a").count("imported") == n + 1, "a standby"
                )
                children = {child.pid for child in psutil.Process().children()}
                pid = running.supervisor.pids()["a"]
                assert f"runs {pid}" in _printed(tmp_path, "a")
                assert _printed(tmp_path, "a").count("runs") == number
                (standby,) = {p for p in children if _runs_script(p)} - {pid}
                os.kill(pid, signal.SIGKILL)
                await wait_until_async(
                    lambda n=number: len(running.started("a")) == n + 1, "the restart"
                )
                assert running.started("a")[-1] == standby

    asyncio.run(run())


def _runs_script(pid: int) -> bool:
    return WAITS_ITS_TURN in psutil.Process(pid).cmdline()


def test_a_dead_standby_costs_a_start_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "STANDBY_AFTER_S", 0.0)

    async def run() -> None:
        spec = replace(_spec("a", WAITS_ITS_TURN), standby=True)
        async with supervising(tmp_path, spec) as running:
            await wait_until_async(
                lambda: _printed(tmp_path, "a").count("imported") == 2, "a standby"
            )
            for child in psutil.Process().children():
                if _runs_script(child.pid):
                    child.kill()
            await wait_until_async(
                lambda: _printed(tmp_path, "a").count("runs") == 2, "another process"
            )
            assert len(running.started("a")) == 2

    asyncio.run(run())


def test_a_process_that_drains_gets_a_successor_and_finishes_beside_it(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    file = tmp_path / "finish"

    async def ask() -> int:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = int(await reader.read())
            writer.close()
            return answer

    async def run() -> list[SupervisorEvent]:
        spec = replace(_spec("a", f"FILE = {str(file)!r}\n{DRAINS}"), listens=True)
        async with supervising(tmp_path, spec, listener=listener) as running:
            first = await ask()
            os.kill(first, signal.SIGTERM)
            await wait_until_async(lambda: "drains" in _printed(tmp_path, "a"), "a drain")
            running.supervisor.succeed("a", first)
            assert await ask() != first
            assert psutil.pid_exists(first)
            file.touch()
            await wait_until_async(
                lambda: Stopped("a", forced=False) in running.events, "the end of the first"
            )
            assert await ask() == running.supervisor.pids()["a"] != first
            return list(running.events)

    events = asyncio.run(run())
    assert [type(event) for event in events] == [Started, Draining, Started, Stopped]


def test_a_process_that_drains_without_a_held_socket_gets_no_successor(tmp_path: Path) -> None:
    async def run() -> list[SupervisorEvent]:
        async with supervising(tmp_path, _spec("a", RUNS)) as running:
            await wait_until_async(lambda: "up" in _printed(tmp_path, "a"), "a running process")
            running.supervisor.succeed("a", running.supervisor.pids()["a"])
            await asyncio.sleep(0)
            return list(running.events)

    assert not [event for event in asyncio.run(run()) if isinstance(event, Draining)]
