"""A process of a supervisor: started, perhaps as a standby, with its output in a log file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress

import psutil

from pomona import host
from pomona.parent_watch import LIFELINE_VARIABLE
from pomona.standby import STANDBY_VARIABLE, turn_message
from pomona_gateway.listener import LISTEN_FD_VARIABLE
from pomona_ops.cluster.processes import ServiceSpec
from pomona_ops.up.log_file import LogFile

LAST_OUTPUT_S = 0.5


class Child:
    """One process, from its start to its end.

    Args:
        turn: write end of the pipe on which a standby waits; None for any other process.
    """

    def __init__(
        self,
        spec: ServiceSpec,
        process: asyncio.subprocess.Process,
        log: LogFile,
        turn: int | None,
    ) -> None:
        self.spec = spec
        self.process = process
        self._turn = turn
        self._created = 0.0
        with suppress(psutil.Error):
            self._created = psutil.Process(process.pid).create_time()
        self._copying = asyncio.create_task(_copy(process.stdout, log))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.returncode is None

    def is_own(self) -> bool:
        """Returns whether the process id still belongs to this process, by its start time and
        arguments."""
        try:
            found = psutil.Process(self.pid)
            # The program itself is not compared: Python on macOS starts another one in its place.
            is_same = found.create_time() == self._created
            return is_same and found.cmdline()[1:] == [*self.spec.command[1:]]
        except psutil.Error:
            return False

    def is_stopped(self) -> bool:
        """Returns whether the process is suspended, as by SIGSTOP: it then reads no SIGTERM."""
        with suppress(psutil.Error):
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        return False

    def begin(self, variables: Mapping[str, str]) -> bool:
        """Lets a standby run its service. Returns False when it has ended.

        Args:
            variables: added to its environment first.
        """
        if self._turn is None or not self.is_running:
            return False
        turn, self._turn = self._turn, None
        try:
            os.write(turn, turn_message(variables))
            return True
        except OSError:
            return False
        finally:
            os.close(turn)

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()

    async def wait(self) -> int:
        """Waits for the end. Returns the exit code, negative for a signal."""
        code = await self.process.wait()
        await asyncio.wait({self._copying}, timeout=LAST_OUTPUT_S)
        self._copying.cancel()
        if self._turn is not None:
            os.close(self._turn)
            self._turn = None
        return code


async def start_child(
    spec: ServiceSpec, log: LogFile, lifeline: int, listener: int | None, standby: bool = False
) -> Child:
    """Starts a process.

    Args:
        lifeline: reading end of the supervisor's lifeline.
        listener: listening socket for a process that ``listens``.
        standby: it waits for :meth:`Child.begin`.

    Raises OSError when it cannot be started.
    """
    environment = {**os.environ, **spec.environment, LIFELINE_VARIABLE: str(lifeline)}
    inherited = [lifeline]
    if spec.listens and listener is not None:
        environment[LISTEN_FD_VARIABLE] = str(listener)
        inherited.append(listener)
    waits, turn = os.pipe() if standby else (None, None)
    if waits is not None:
        environment[STANDBY_VARIABLE] = str(waits)
        inherited.append(waits)
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
    except BaseException:
        if turn is not None:
            os.close(turn)
        raise
    finally:
        if waits is not None:
            os.close(waits)
    child = Child(spec, process, log, turn)
    if spec.cores:
        with suppress(ProcessLookupError):
            host.pin(process.pid, spec.cores)
    return child


async def _copy(output: asyncio.StreamReader | None, log: LogFile) -> None:
    while output is not None and (chunk := await output.read(65536)):
        log.write(chunk)
