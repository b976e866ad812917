"""Runs the processes of a cluster, restarts them, and stops them in order.

Every process has a session of its own, so that Ctrl-C reaches only the supervisor, and holds one
end of the supervisor's lifeline (see pomona.parent_watch).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from pomona import host
from pomona.errors import ConfigurationError
from pomona.parent_watch import LIFELINE_VARIABLE
from pomona.service import FORMER_END_VARIABLE
from pomona_gateway.listener import LISTEN_FD_VARIABLE
from pomona_ops.cluster.processes import ServiceSpec
from pomona_ops.up.exit_cause import OutOfMemoryKills, exit_cause
from pomona_ops.up.log_file import LogFile
from pomona_ops.up.restart_policy import GiveUp, RestartPolicy

HASTENED_STOP_S = 2.0
"""Seconds from the second SIGTERM, at which streams end with an error, to SIGKILL."""
SILENT_STOP_S = 1.0
"""Seconds from SIGTERM to SIGKILL for a process that sends no beacons: it seldom reads signals."""
_LAST_OUTPUT_S = 0.5


@dataclass(frozen=True, slots=True)
class Started:
    name: str
    pid: int
    is_restart: bool


@dataclass(frozen=True, slots=True)
class Exited:
    """Attributes:
    cause: exit code or signal, in words.
    last_error: the last error in its output; may be empty.
    restart_s: seconds until it is restarted; None when it is not.
    """

    name: str
    cause: str
    last_error: str
    log: Path
    restart_s: float | None


@dataclass(frozen=True, slots=True)
class Stopped:
    """Attributes:
    forced: it did not end in time and was killed.
    """

    name: str
    forced: bool


@dataclass(frozen=True, slots=True)
class Silent:
    """A process is ended, and restarted, because it sends no beacons."""

    name: str
    pid: int


SupervisorEvent = Started | Exited | Stopped | Silent


class Supervisor:
    """Runs one process for each spec until :meth:`stop`.

    Args:
        listener: listening socket for the process that ``listens``. It stays open while that
            process is restarted, so that clients wait; :meth:`stop` closes it.

    Attributes:
        gave_up: set when a process has ended because its settings are invalid.
    """

    def __init__(
        self,
        specs: Sequence[ServiceSpec],
        log_dir: Path,
        on_event: Callable[[SupervisorEvent], None],
        listener: socket.socket | None = None,
    ) -> None:
        self._listener = listener
        self.gave_up = asyncio.Event()
        self._specs = list(specs)
        self._log_dir = log_dir
        self._on_event = on_event
        self._stopping = False
        self._hasten = asyncio.Event()
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._started_at: dict[int, float] = {}
        self._lifeline: tuple[int, int] | None = None

    def start(self) -> None:
        """Starts every process in the order of the specs. Needs a running event loop."""
        self._lifeline = os.pipe()
        for spec in self._specs:
            self._tasks[spec.name] = asyncio.create_task(self._supervise(spec), name=spec.name)

    def pids(self) -> dict[str, int]:
        """Process ids of the running processes, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def hasten(self) -> None:
        """Sends each process that stops another SIGTERM, and shortens the wait for it to
        HASTENED_STOP_S."""
        self._hasten.set()

    async def end_silent(self, name: str) -> None:
        """Ends a process that sends no beacons: SIGTERM, then SIGKILL. It is then restarted."""
        process = self._processes.get(name)
        if process is None or self._stopping or not self._is_own(name, process.pid):
            return
        self._on_event(Silent(name, process.pid))
        process.terminate()
        try:
            async with asyncio.timeout(SILENT_STOP_S):
                await process.wait()
        except TimeoutError:
            if self._processes.get(name) is process and self._is_own(name, process.pid):
                process.kill()

    def _is_own(self, name: str, pid: int) -> bool:
        """Returns whether a process id still belongs to the process that was started as ``name``,
        by its start time and arguments."""
        spec = next(spec for spec in self._specs if spec.name == name)
        try:
            found = psutil.Process(pid)
            # The program itself is not compared: Python on macOS starts another one in its place.
            is_same = found.create_time() == self._started_at[pid]
            return is_same and found.cmdline()[1:] == [*spec.command[1:]]
        except (psutil.Error, KeyError):
            return False

    async def stop(self) -> None:
        """Stops all processes and waits for them; those of the lowest stop rank go first."""
        self._stopping = True
        for rank in sorted({spec.stop_rank for spec in self._specs}):
            stopping = [
                self._stop_one(spec)
                for spec in self._specs
                if spec.stop_rank == rank and spec.name in self._tasks
            ]
            await asyncio.gather(*stopping)
            if self._listener is not None:
                # The gateway has gone first: whoever connects from now on is refused.
                self._listener.close()
                self._listener = None
        if self._lifeline is not None:
            for descriptor in self._lifeline:
                os.close(descriptor)
            self._lifeline = None

    async def _stop_one(self, spec: ServiceSpec) -> None:
        task = self._tasks[spec.name]
        process = self._processes.get(spec.name)
        if process is None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return
        with suppress(ProcessLookupError):
            process.terminate()
        forced = not await self._ends_within(task, process, spec.stop_s)
        if forced:
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.gather(task, return_exceptions=True)
        self._on_event(Stopped(spec.name, forced))

    async def _ends_within(
        self, task: asyncio.Task[None], process: asyncio.subprocess.Process, timeout_s: float
    ) -> bool:
        """Returns True when the task ends in time. :meth:`hasten` shortens the time."""
        hasten = asyncio.create_task(self._hasten.wait())
        try:
            await asyncio.wait({task, hasten}, timeout=timeout_s, return_when="FIRST_COMPLETED")
            if not task.done() and hasten.done():
                with suppress(ProcessLookupError):
                    process.terminate()
                await asyncio.wait({task}, timeout=HASTENED_STOP_S)
        finally:
            hasten.cancel()
        return task.done()

    async def _supervise(self, spec: ServiceSpec) -> None:
        """Runs one process, and restarts it until the supervisor stops."""
        policy = RestartPolicy()
        log = LogFile(self._log_dir / f"{spec.name}.log")
        is_restart = False
        former_end = ""
        try:
            while True:
                started_at = time.monotonic()
                memory = OutOfMemoryKills()
                log.clear_last_error()
                log.begin_line()
                code = await self._run_once(spec, log, is_restart, former_end)
                if self._stopping:
                    return
                is_restart = True
                decision, policy = policy.on_exit(code, time.monotonic() - started_at)
                delay_s = None if isinstance(decision, GiveUp) else decision.delay_s
                # An error that a killed process logged earlier is not the cause.
                error = log.last_error() if code > 0 else ""
                cause = exit_cause(code, memory.has_killed())
                former_end = f"{cause}: {error}" if error else cause
                self._on_event(Exited(spec.name, cause, error, log.path, delay_s))
                if delay_s is None:
                    self.gave_up.set()
                    return
                await asyncio.sleep(delay_s)
                if self._stopping:
                    return
        finally:
            log.close()

    async def _run_once(
        self, spec: ServiceSpec, log: LogFile, is_restart: bool, former_end: str
    ) -> int:
        """Runs a process to its end. Returns its exit code, negative for a signal.

        Args:
            former_end: how the process before it ended.
        """
        if self._lifeline is None:
            raise ConfigurationError("Supervisor.start was not called")
        reading_end = self._lifeline[0]
        environment = {**os.environ, **spec.environment, LIFELINE_VARIABLE: str(reading_end)}
        if former_end:
            environment[FORMER_END_VARIABLE] = former_end
        inherited = [reading_end]
        if spec.listens and self._listener is not None:
            environment[LISTEN_FD_VARIABLE] = str(self._listener.fileno())
            inherited.append(self._listener.fileno())
        try:
            process = await asyncio.create_subprocess_exec(
                *spec.command,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=inherited,
            )
        except OSError as error:
            log.write(f"cannot start {spec.command[0]}: {error}\n".encode())
            return os.EX_OSERR
        self._processes[spec.name] = process
        with suppress(psutil.Error):
            self._started_at[process.pid] = psutil.Process(process.pid).create_time()
        try:
            if spec.cores:
                with suppress(ProcessLookupError):
                    host.pin(process.pid, spec.cores)
            if self._stopping:
                process.terminate()
            self._on_event(Started(spec.name, process.pid, is_restart))
            copying = asyncio.create_task(_copy(process.stdout, log))
            code = await process.wait()
            await asyncio.wait({copying}, timeout=_LAST_OUTPUT_S)
            copying.cancel()
            return code
        finally:
            del self._processes[spec.name]
            self._started_at.pop(process.pid, None)


async def _copy(output: asyncio.StreamReader | None, log: LogFile) -> None:
    while output is not None and (chunk := await output.read(65536)):
        log.write(chunk)
