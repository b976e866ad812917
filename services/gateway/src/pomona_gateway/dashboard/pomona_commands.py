"""Runs ``pomona`` commands in processes of their own: what takes seconds of computing, or minutes
of downloading, must not hold up the gateway's event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

from pomona.errors import RequestError

DEADLINE_S = 60.0
MAX_WAITING = 4
"""Commands that may wait for a running one."""
RETRY_AFTER_S = 5
NICENESS = 10
"""Added to the priority of a command, so that streams of tokens come first."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended: exit status and output."""

    status: int
    output: bytes
    errors: str


async def run_command(
    *arguments: str, deadline_s: float, variables: Mapping[str, str] | None = None
) -> Finished:
    """Runs ``pomona ARGUMENTS`` until it ends; it is ended when the caller is cancelled.

    Args:
        variables: environment of the command beside that of the gateway.

    Raises:
        RequestError: the command is not installed here (501), or it did not end in time (504).
    """
    if find_spec("pomona_ops") is None:
        message = "the `pomona` command is not installed beside this gateway; run it elsewhere"
        raise RequestError(501, "command_not_installed", message)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        "pomona_ops",
        *arguments,
        env={**os.environ, **(variables or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
    try:
        async with asyncio.timeout(deadline_s):
            output, errors = await process.communicate()
    except TimeoutError as error:
        message = f"`pomona {arguments[0]}` did not end within {deadline_s:g} s"
        raise RequestError(504, "command_timeout", message) from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return Finished(process.returncode or 0, output, errors.decode(errors="replace").strip())


class CommandQueue:
    """Runs one command at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def run(self, *arguments: str) -> Finished:
        """Runs a command when those before it have ended.

        Raises:
            RequestError: too many wait (429), or as :func:`run_command`.
        """
        if self._waiting > MAX_WAITING:
            message = "others are being computed; try again in a moment"
            raise RequestError(429, "too_many_commands", message, retry_after_s=RETRY_AFTER_S)
        self._waiting += 1
        try:
            async with self._turn:
                return await run_command(*arguments, deadline_s=DEADLINE_S)
        finally:
            self._waiting -= 1
