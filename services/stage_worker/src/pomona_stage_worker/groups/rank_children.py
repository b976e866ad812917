"""Starts the rank processes of a group on this machine, listens to them, and ends them."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import orjson

from pomona.errors import LinkBusyError, PomonaError
from pomona.messages.codec import Buffer
from pomona.parent_watch import LIFELINE_VARIABLE
from pomona.ports import bind_free_port
from pomona.transport.channels import Channel
from pomona_stage_worker.groups.rank_messages import (
    Command,
    Failed,
    Report,
    decode_report,
    encode,
)

log = logging.getLogger(__name__)

R = TypeVar("R")
MODULE: Final = "pomona_stage_worker.groups.rank_process"
LOOPBACK: Final = "127.0.0.1"
LISTEN_S: Final = 0.02
"""Time for which one rank is listened to before the others are checked."""
END_DEADLINE_S: Final = 5.0


class GroupError(PomonaError):
    """A rank of a group failed, ended or made no progress. The group is gone."""


class RankChildren:
    """The rank processes of one group, connected by mlx's ring on loopback.

    They end with this object, or with this process: they are a process group, which every rank
    kills when this process has ended. A stopped rank could not end itself.

    Args:
        size: number of ranks.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.failure: str | None = None
        self.spins = False
        self._files = tempfile.TemporaryDirectory(prefix="pomona-group-")
        pairs = [Channel.pair(f"rank {rank}") for rank in range(size)]
        self._channels = [own for own, _ in pairs]
        self._read_end, self._lifeline = os.pipe()
        hosts = Path(self._files.name) / "hosts.json"
        hosts.write_bytes(orjson.dumps([[f"{LOOPBACK}:{port}"] for port in free_ports(size)]))
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank, (_, end) in enumerate(pairs):
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(end.fileno())],
                env={
                    **os.environ,
                    **_blas_threads(size),
                    "MLX_RANK": str(rank),
                    "MLX_HOSTFILE": str(hosts),
                    LIFELINE_VARIABLE: str(self._read_end),
                },
                pass_fds=(self._read_end, end.fileno()),
                stdin=subprocess.DEVNULL,
                process_group=self._processes[0].pid if rank else 0,
            )
            self._processes.append(process)
        for _, end in pairs:
            end.close()

    @property
    def pids(self) -> list[int]:
        """Process ids in rank order."""
        return [process.pid for process in self._processes]

    def send(self, command: Command, buffers: Sequence[Buffer] = ()) -> None:
        """Sends a command to every rank. Raises GroupError when the group has failed."""
        self._check()
        frames = encode(command, buffers)
        for rank in reversed(range(self.size)):
            try:
                self._channels[rank].send(frames)
            except LinkBusyError as error:
                raise self.end(f"rank {rank} takes no message") from error

    def receive(
        self,
        rank: int,
        kind: type[R],
        deadline_s: float,
        spin_s: float = 0.0,
    ) -> tuple[R, list[Buffer]]:
        """Returns the next report of ``kind`` from a rank, and its buffers.

        The other ranks are only checked to be alive.

        Args:
            deadline_s: seconds from now; after it the group is ended.
            spin_s: seconds of that in which it polls first.

        Raises:
            GroupError: a rank failed, ended, or did not report in time.
        """
        ends_at = time.monotonic() + deadline_s
        while True:
            left = ends_at - time.monotonic()
            frames = self._receive(rank, max(min(LISTEN_S, left), 0.0), spin_s)
            spin_s = 0.0
            if frames is not None:
                report = self._decode(rank, frames)
                if not isinstance(report, kind):
                    raise self.end(f"rank {rank} sent {report.kind} where {kind.__name__} was due")
                return report, frames[1:]
            self._check()
            if left <= 0:
                raise self.end(f"rank {rank} made no progress for {deadline_s:.1f} s")

    def wait(self, rank: int, timeout_s: float) -> None:
        """Waits until a rank has reported, at most ``timeout_s`` seconds, in whole milliseconds."""
        self._channels[rank].wait(timeout_s)

    def close(self) -> None:
        """Ends all ranks, also those that are stopped or hang in a collective."""
        self.failure = self.failure or "it was ended"
        for process in self._processes:
            with suppress(OSError):
                process.kill()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_DEADLINE_S)
        if self._lifeline >= 0:
            os.close(self._read_end)
            os.close(self._lifeline)
            self._lifeline = -1
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        self._files.cleanup()

    def end(self, reason: str) -> GroupError:
        """Ends all ranks because of an error, which it returns."""
        log.error("a group of %d ranks is ended: %s", self.size, reason)
        self.failure = reason
        self.close()
        return GroupError(f"the group is ended: {reason}")

    def _receive(self, rank: int, timeout_s: float, spin_s: float = 0.0) -> list[Buffer] | None:
        """Returns a message, or None at the timeout or when the rank has closed its end."""
        try:
            return self._channels[rank].receive(timeout_s, spin_s)
        except ConnectionError:
            with suppress(subprocess.TimeoutExpired):
                self._processes[rank].wait(timeout_s)
            return None

    def _decode(self, rank: int, frames: Sequence[Buffer]) -> Report:
        report = decode_report(frames)
        if isinstance(report, Failed):
            raise self.end(f"rank {rank} failed: {report.error}")
        return report

    def _check(self) -> None:
        """Raises GroupError when the group has failed or a rank's process has ended."""
        if self.failure is not None:
            raise GroupError(f"the group cannot go on: {self.failure}")
        ended = [n for n, process in enumerate(self._processes) if process.poll() is not None]
        if not ended:
            return
        for rank in ended:
            while (frames := self._receive(rank, 0.0)) is not None:
                self._decode(rank, frames)
        status = self._processes[ended[0]].returncode
        raise self.end(f"the process of rank {ended[0]} ended with status {status}")


def _blas_threads(size: int) -> dict[str, str]:
    """Returns the variables that divide this process's threads for matrix products by ``size``."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    own = next((os.environ[name] for name in names if name in os.environ), "")
    threads = int(own) if own.isdecimal() else os.cpu_count() or 1
    return dict.fromkeys(names, str(max(threads // size, 1)))


def free_ports(count: int) -> list[int]:
    """Returns different ports of loopback that are free now."""
    sockets = [bind_free_port(_bound) for _ in range(count)]
    ports = [int(held.getsockname()[1]) for held in sockets]
    for held in sockets:
        held.close()
    return ports


def _bound(port: int) -> socket.socket:
    held = socket.socket()
    try:
        held.bind((LOOPBACK, port))
    except OSError:
        held.close()
        raise
    return held
