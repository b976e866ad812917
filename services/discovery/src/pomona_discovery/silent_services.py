"""Ends services of this node that have stopped sending beacons, so that launchd or systemd starts
them again. A process that is stopped or hangs keeps its sockets, and its supervisor sees it run."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from pomona.messages.control import Beacon
from pomona.silence import SilenceWatch
from pomona.stalls import add_stall

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 0.5
TERM_S = 1.0
"""Seconds from SIGTERM to SIGKILL: a process that sends no beacons seldom reads signals."""


@dataclass(frozen=True, slots=True)
class LocalProcess:
    """The process behind a beacon.

    Attributes:
        started: its start time and its arguments, which tell it from a later process of its id.
    """

    pid: int
    started: tuple[float, tuple[str, ...]]


class SilentServices:
    """The services of this node that were heard, by name.

    Args:
        own: name of this discovery service, which is never ended.
        state_dir: folder in which stalls are recorded.
    """

    def __init__(self, own: str, state_dir: Path) -> None:
        self._own = own
        self._state_dir = state_dir
        self._watch = SilenceWatch()
        self._processes: dict[str, LocalProcess] = {}
        self._workers: set[str] = set()

    def on_beacon(self, beacon: Beacon) -> None:
        """Records a beacon of a service on this machine."""
        if beacon.name == self._own:
            self._watch.observe(beacon.name, beacon.pid, time.monotonic())
            return
        known = self._processes.get(beacon.name)
        if beacon.state == "draining":
            self._processes.pop(beacon.name, None)
            return
        if known is None or known.pid != beacon.pid:
            started = _started(beacon.pid)
            if started is None:
                return
            self._processes[beacon.name] = LocalProcess(beacon.pid, started)
            if beacon.facts.service == "stage_worker":
                self._workers.add(beacon.name)
        self._watch.observe(beacon.name, beacon.pid, time.monotonic())

    async def run(self) -> None:
        """Ends silent services until cancelled."""
        while True:
            pids = {name: process.pid for name, process in self._processes.items()}
            silent = self._watch.silent(pids, time.monotonic(), self._is_stopped_worker)
            await asyncio.gather(*(self._end(name) for name in silent))
            await asyncio.sleep(CHECK_INTERVAL_S)

    def _is_stopped_worker(self, name: str) -> bool:
        # Ending a gateway would cut its clients off, so it has more time to go on.
        return name in self._workers and _is_stopped(self._processes[name].pid)

    async def _end(self, name: str) -> None:
        known = self._processes.pop(name, None)
        if known is None or _started(known.pid) != known.started:
            return
        log.error("%s (process %d) sends no beacons and is ended", name, known.pid)
        add_stall(self._state_dir, name, time.time())
        try:
            process = psutil.Process(known.pid)
            if _is_stopped(known.pid):
                process.kill()
                return
            process.terminate()
            deadline = time.monotonic() + TERM_S
            while _started(known.pid) == known.started:
                if time.monotonic() > deadline:
                    process.kill()
                    return
                await asyncio.sleep(TERM_S / 20)
        except psutil.AccessDenied:
            log.error("%s belongs to another account, so discovery cannot end it", name)
        except psutil.NoSuchProcess:
            pass


def _is_stopped(pid: int) -> bool:
    """Returns whether a process is suspended, as by SIGSTOP. It then reads no SIGTERM."""
    with suppress(psutil.Error):
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    return False


def _started(pid: int) -> tuple[float, tuple[str, ...]] | None:
    """Returns start time and arguments of a running process of Pomona; None for any other."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        arguments = tuple(process.cmdline())
        is_ours = any("pomona_" in argument for argument in arguments)
        if is_ours and process.status() != psutil.STATUS_ZOMBIE:
            return process.create_time(), arguments
    return None
