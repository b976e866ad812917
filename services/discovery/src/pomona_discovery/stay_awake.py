"""Keeps a Mac awake while discovery runs."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress

from pomona import host
from pomona_discovery.mac_commands import command_path

log = logging.getLogger(__name__)

RESTART_S = 10.0
STOP_DEADLINE_S = 1.0


async def stay_awake() -> None:
    """Prevents idle sleep until cancelled: runs ``caffeinate -i -w`` with this process's id.

    ``-w`` ends caffeinate with this process, however that ends. It cannot prevent sleep by a
    closed lid or an empty battery. Returns at once on other systems than macOS.
    """
    path = command_path("caffeinate") if host.is_mac() else None
    if path is None:
        if host.is_mac():
            log.warning("caffeinate is missing: this Mac may sleep; run `sudo pmset -a sleep 0`")
        return
    while True:
        process = await asyncio.create_subprocess_exec(
            path, "-i", "-w", str(os.getpid()), stdin=asyncio.subprocess.DEVNULL
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await process.wait()
            raise
        log.warning("caffeinate ended with %d, starting it again in %g s", code, RESTART_S)
        await asyncio.sleep(RESTART_S)
