"""Runs the processes of a cluster, restarts them, and stops them in order.

Every process has a session of its own, so that Ctrl-C reaches only the supervisor, and holds one
end of the supervisor's lifeline (see pomona.parent_watch). A process whose spec says so has a
standby, which takes its place at once. A process that drains by itself, and whose listening socket
the supervisor holds, gets a successor while it finishes its work.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pomona.errors import ConfigurationError
from pomona.former_end import FORMER_END_VARIABLE, exit_cause
from pomona_ops.cluster.processes import ServiceSpec
from pomona_ops.up.child import Child, start_child
from pomona_ops.up.log_file import LogFile
from pomona_ops.up.out_of_memory import OutOfMemoryKills
from pomona_ops.up.restart_policy import GiveUp, RestartPolicy

HASTENED_STOP_S = 2.0
"""Seconds from the second SIGTERM, at which streams end with an error, to SIGKILL."""
SILENT_STOP_S = 1.0
"""Seconds from SIGTERM to SIGKILL for a process that sends no beacons: it seldom reads signals."""
FINISH_S = 620.0
"""Seconds within which a process finishes its work beside its successor: over the gateway's own
deadline for that."""
STANDBY_AFTER_S = 10.0
"""Seconds from the start of a process to that of its standby, which takes a second of a core."""


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


@dataclass(frozen=True, slots=True)
class Draining:
    """A process was told to end, and finishes its work while another one takes its place."""

    name: str
    pid: int


SupervisorEvent = Started | Exited | Stopped | Silent | Draining


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
        self._children: dict[str, Child] = {}
        self._standbys: dict[str, Child] = {}
        self._succeeded: dict[str, asyncio.Event] = {}
        self._draining: dict[str, dict[Child, asyncio.Task[None]]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lifeline: tuple[int, int] | None = None

    def start(self) -> None:
        """Starts every process in the order of the specs. Needs a running event loop."""
        self._lifeline = os.pipe()
        for spec in self._specs:
            self._tasks[spec.name] = asyncio.create_task(self._supervise(spec), name=spec.name)

    def pids(self) -> dict[str, int]:
        """Process ids of the running processes, by name. Standbys, and processes that finish their
        work beside their successors, are not among them."""
        return {name: child.pid for name, child in self._children.items()}

    def is_stopped(self, name: str) -> bool:
        """Returns whether a process is suspended, as by SIGSTOP."""
        child = self._children.get(name)
        return child is not None and child.is_stopped()

    def hasten(self) -> None:
        """Sends each process that stops another SIGTERM, and shortens the wait for it to
        HASTENED_STOP_S."""
        self._hasten.set()

    def succeed(self, name: str, pid: int) -> None:
        """Starts the successor of a process that drains although this supervisor runs.

        Does nothing unless this supervisor holds the socket on which the process listens.
        """
        child, event = self._children.get(name), self._succeeded.get(name)
        is_ours = child is not None and child.pid == pid and child.spec.listens
        if is_ours and event is not None and self._listener is not None and not self._stopping:
            event.set()

    async def end_silent(self, name: str) -> None:
        """Ends a process that sends no beacons: SIGTERM, then SIGKILL. It is then restarted."""
        child = self._children.get(name)
        if child is None or self._stopping or not child.is_own():
            return
        self._on_event(Silent(name, child.pid))
        if not child.is_stopped():
            child.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(SILENT_STOP_S):
                    await child.process.wait()
        if self._children.get(name) is child and child.is_own():
            child.kill()

    async def stop(self) -> None:
        """Stops all processes and waits for them; those of the lowest stop rank go first."""
        self._stopping = True
        await self._end_standbys()
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
        await self._end_standbys()
        if self._lifeline is not None:
            for descriptor in self._lifeline:
                os.close(descriptor)
            self._lifeline = None

    async def _stop_one(self, spec: ServiceSpec) -> None:
        task = self._tasks[spec.name]
        child = self._children.get(spec.name)
        ending = [
            self._end(spec, finishing, draining)
            for draining, finishing in self._draining.get(spec.name, {}).items()
        ]
        if child is None:
            task.cancel()
            await asyncio.gather(task, *ending, return_exceptions=True)
            return
        child.terminate()
        forced, *_ = await asyncio.gather(self._end(spec, task, child), *ending)
        self._on_event(Stopped(spec.name, forced))

    async def _end(self, spec: ServiceSpec, task: asyncio.Task[None], child: Child) -> bool:
        """Waits for the end of a process that was told to stop. Returns True when it is killed."""
        forced = not await self._ends_within(task, child, spec.stop_s)
        if forced and child in self._draining.get(spec.name, {}):
            # It has a longer deadline of its own, which the second SIGTERM ends.
            child.terminate()
            await asyncio.wait({task}, timeout=HASTENED_STOP_S)
            forced = not task.done()
        if forced:
            child.kill()
            await asyncio.gather(task, return_exceptions=True)
        return forced

    async def _ends_within(self, task: asyncio.Task[None], child: Child, timeout_s: float) -> bool:
        """Returns True when the task ends in time. :meth:`hasten` shortens the time."""
        hasten = asyncio.create_task(self._hasten.wait())
        try:
            await asyncio.wait({task, hasten}, timeout=timeout_s, return_when="FIRST_COMPLETED")
            if not task.done() and hasten.done():
                child.terminate()
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
                if code is None:
                    former_end = ""
                    continue
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
            await asyncio.gather(*self._draining.get(spec.name, {}).values())
            log.close()

    async def _run_once(
        self, spec: ServiceSpec, log: LogFile, is_restart: bool, former_end: str
    ) -> int | None:
        """Runs a process to its end. Returns its exit code, negative for a signal; None when it
        finishes its work while its successor starts.

        Args:
            former_end: how the process before it ended.
        """
        try:
            child = await self._next_child(spec, log, former_end)
        except OSError as error:
            log.write(f"cannot start {spec.command[0]}: {error}\n".encode())
            return os.EX_OSERR
        self._children[spec.name] = child
        succeeded = self._succeeded[spec.name] = asyncio.Event()
        ending = asyncio.create_task(child.wait())
        taken_over = asyncio.create_task(succeeded.wait())
        helpers: list[asyncio.Task[Any]] = [taken_over]
        if spec.standby:
            helpers.append(asyncio.create_task(self._prepare_standby(spec, log)))
        try:
            if self._stopping:
                child.terminate()
            self._on_event(Started(spec.name, child.pid, is_restart))
            await asyncio.wait({ending, taken_over}, return_when="FIRST_COMPLETED")
            if not ending.done():
                self._on_event(Draining(spec.name, child.pid))
                finishing = asyncio.create_task(self._finish(spec, child, ending))
                self._draining.setdefault(spec.name, {})[child] = finishing
                return None
            return ending.result()
        finally:
            for helper in helpers:
                helper.cancel()
            del self._children[spec.name]

    async def _next_child(self, spec: ServiceSpec, log: LogFile, former_end: str) -> Child:
        """Takes the standby, or starts a process. Raises OSError."""
        variables = {FORMER_END_VARIABLE: former_end} if former_end else {}
        standby = self._standbys.pop(spec.name, None)
        if standby is not None:
            if standby.begin(variables):
                return standby
            standby.kill()
            await standby.wait()
        spec = replace(spec, environment={**spec.environment, **variables})
        return await self._start_child(spec, log)

    async def _start_child(self, spec: ServiceSpec, log: LogFile, standby: bool = False) -> Child:
        if self._lifeline is None:
            raise ConfigurationError("Supervisor.start was not called")
        listener = None if self._listener is None else self._listener.fileno()
        return await start_child(spec, log, self._lifeline[0], listener, standby)

    async def _prepare_standby(self, spec: ServiceSpec, log: LogFile) -> None:
        """Starts a standby once the process has run for a while."""
        await asyncio.sleep(STANDBY_AFTER_S)
        if spec.name in self._standbys or self._stopping:
            return
        try:
            self._standbys[spec.name] = await self._start_child(spec, log, standby=True)
        except OSError as error:
            log.write(f"cannot start a standby: {error}\n".encode())

    async def _end_standbys(self) -> None:
        standbys, self._standbys = list(self._standbys.values()), {}
        for child in standbys:
            child.kill()
        await asyncio.gather(*(child.wait() for child in standbys))

    async def _finish(self, spec: ServiceSpec, child: Child, ending: asyncio.Task[int]) -> None:
        """Waits for the end of a process that drains, as long as it may take."""
        await asyncio.wait({ending}, timeout=FINISH_S)
        if not ending.done():
            child.kill()
            await ending
        self._draining[spec.name].pop(child)
        self._on_event(Stopped(spec.name, forced=ending.result() == -signal.SIGKILL))
