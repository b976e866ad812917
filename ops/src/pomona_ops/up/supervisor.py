"""Keeps the processes of a cluster running, and ends them in order.

Every process is started in a session of its own, so that Ctrl-C reaches the supervisor
alone, and holds one end of the supervisor's lifeline (see pomona.parent_watch).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pomona.errors import ConfigurationError
from pomona.parent_watch import LIFELINE_VARIABLE
from pomona_ops.cluster.processes import ServiceSpec
from pomona_ops.up.log_file import LogFile
from pomona_ops.up.restart_policy import GiveUp, RestartPolicy

HASTENED_STOP_S = 1.0
_LAST_OUTPUT_S = 0.5


@dataclass(frozen=True, slots=True)
class Started:
    name: str
    pid: int
    again: bool


@dataclass(frozen=True, slots=True)
class Died:
    """Attributes:
    how: exit code or signal, in words.
    last_words: what the process last said was wrong; may be empty.
    restart_s: seconds until it is started again; None when it is not.
    """

    name: str
    how: str
    last_words: str
    log: Path
    restart_s: float | None


@dataclass(frozen=True, slots=True)
class Stopped:
    """Attributes: forced: it did not end by itself in time."""

    name: str
    forced: bool


SupervisorEvent = Started | Died | Stopped


class Supervisor:
    """Runs one process for each spec until :meth:`stop`.

    ``gave_up`` is set when a process ended because its settings cannot be used.
    """

    def __init__(
        self,
        specs: Sequence[ServiceSpec],
        log_dir: Path,
        tell: Callable[[SupervisorEvent], None],
    ) -> None:
        self.gave_up = asyncio.Event()
        self._specs = list(specs)
        self._log_dir = log_dir
        self._tell = tell
        self._stopping = False
        self._hasten = asyncio.Event()
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._lifeline: tuple[int, int] | None = None

    def start(self) -> None:
        """Start every process, in the order of the specs. Needs a running event loop."""
        self._lifeline = os.pipe()
        for spec in self._specs:
            self._keepers[spec.name] = asyncio.create_task(self._keep(spec), name=spec.name)

    def pids(self) -> dict[str, int]:
        """The processes that run now."""
        return {name: process.pid for name, process in self._processes.items()}

    def hasten(self) -> None:
        """Shorten every wait of :meth:`stop` to HASTENED_STOP_S."""
        self._hasten.set()

    async def stop(self) -> None:
        """End all processes, those of the lowest stop rank first, and wait for them."""
        self._stopping = True
        for rank in sorted({spec.stop_rank for spec in self._specs}):
            stopping = [
                self._stop_one(spec)
                for spec in self._specs
                if spec.stop_rank == rank and spec.name in self._keepers
            ]
            await asyncio.gather(*stopping)
        if self._lifeline is not None:
            for descriptor in self._lifeline:
                os.close(descriptor)
            self._lifeline = None

    async def _stop_one(self, spec: ServiceSpec) -> None:
        keeper = self._keepers[spec.name]
        process = self._processes.get(spec.name)
        if process is None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            return
        with suppress(ProcessLookupError):
            process.terminate()
        forced = not await self._ended(keeper, spec.stop_s)
        if forced:
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.gather(keeper, return_exceptions=True)
        self._tell(Stopped(spec.name, forced))

    async def _ended(self, keeper: asyncio.Task[None], within_s: float) -> bool:
        """Whether the keeper ended in time; a second Ctrl-C makes the time short."""
        hasten = asyncio.create_task(self._hasten.wait())
        try:
            await asyncio.wait({keeper, hasten}, timeout=within_s, return_when="FIRST_COMPLETED")
            if not keeper.done() and hasten.done():
                await asyncio.wait({keeper}, timeout=HASTENED_STOP_S)
        finally:
            hasten.cancel()
        return keeper.done()

    async def _keep(self, spec: ServiceSpec) -> None:
        """Run one process, again and again, until the supervisor stops."""
        policy = RestartPolicy()
        log = LogFile(self._log_dir / f"{spec.name}.log")
        again = False
        try:
            while True:
                began = time.monotonic()
                log.new_life()
                code = await self._live(spec, log, again)
                if self._stopping:
                    return
                again = True
                decision, policy = policy.died(code, time.monotonic() - began)
                delay_s = None if isinstance(decision, GiveUp) else decision.delay_s
                # What a killed process said before has nothing to do with its end.
                words = log.last_words() if code > 0 else ""
                self._tell(Died(spec.name, how_it_ended(code), words, log.path, delay_s))
                if delay_s is None:
                    self.gave_up.set()
                    return
                await asyncio.sleep(delay_s)
                if self._stopping:
                    return
        finally:
            log.close()

    async def _live(self, spec: ServiceSpec, log: LogFile, again: bool) -> int:
        """One life of a process; its exit code, negative for a signal."""
        if self._lifeline is None:
            raise ConfigurationError("a supervisor must be started before its processes")
        reading_end = self._lifeline[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *spec.command,
                env={**os.environ, **spec.environment, LIFELINE_VARIABLE: str(reading_end)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(reading_end,),
            )
        except OSError as error:
            log.write(f"cannot start {spec.command[0]}: {error}\n".encode())
            return os.EX_OSERR
        self._processes[spec.name] = process
        try:
            if spec.cores and sys.platform == "linux":
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(process.pid, spec.cores)
            if self._stopping:
                process.terminate()
            self._tell(Started(spec.name, process.pid, again))
            copying = asyncio.create_task(_copy(process.stdout, log))
            code = await process.wait()
            await asyncio.wait({copying}, timeout=_LAST_OUTPUT_S)
            copying.cancel()
            return code
        finally:
            del self._processes[spec.name]


async def _copy(output: asyncio.StreamReader | None, log: LogFile) -> None:
    while output is not None and (chunk := await output.read(65536)):
        log.write(chunk)


def how_it_ended(code: int) -> str:
    """An exit code, negative for a signal, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
