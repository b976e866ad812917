"""The journal on disk: a thread writes what the runs record, at most 200 ms behind.

The event loop only appends to a queue. When the disk is full, fails or does not keep up, the runs
concerned go on without a file. The folder and the files are readable by their owner only. They are
not synced: written data survives the end of the process, and after a power cut the part
that the system had saved.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pomona.errors import ProtocolError
from pomona.messages.pipeline import Token
from pomona_gateway.pipeline.instructions import SequenceRequest
from pomona_gateway.runs import run_file
from pomona_gateway.runs.run import Run, RunRecorder
from pomona_gateway.runs.run_file import RecordedResponse, RunFile

log = logging.getLogger(__name__)

FOLDER = "journal"
BATCH_S = 0.1
"""Seconds for which tokens are collected before they are written."""
MAX_QUEUED = 1 << 18
"""Maximum number of events that wait for the disk."""
MAX_QUEUED_BYTES = 64 << 20
"""Maximum size of the requests and responses that wait for the disk."""
JOIN_S = 5.0

_SUFFIX = ".run"
_OWNER_SUFFIX = ".owner"


@dataclass(frozen=True, slots=True)
class _Event:
    """A change to the file of a run.

    Attributes:
        encode: returns the lines to append; None erases the file.
        token: a token to append instead.
        is_first: the file is created.
    """

    run: str
    encode: Callable[[], bytes] | None = None
    token: tuple[int, Token] | None = None
    is_first: bool = False
    size: int = 0


class DiskJournal(RunRecorder):
    """Files of the runs of one gateway process.

    Args:
        owner: boot id of the gateway. A lock tells others that it lives.
        max_bytes: maximum size of all files. Beyond it runs have no file.
    """

    def __init__(self, state_dir: Path, owner: str, max_bytes: int) -> None:
        """Raises OSError when the folder cannot be created."""
        self.folder = state_dir / FOLDER
        self._owner = owner
        self._max_bytes = max_bytes
        self._events: deque[_Event] = deque()
        self._queued_bytes = 0
        self._lost: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._wake = threading.Event()
        self._closing = False
        self._has_failed = False
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._lock = self._take_lock()
        self._thread = threading.Thread(target=self._write_until_closed, name="journal")
        self._thread.daemon = True
        self._thread.start()

    # For the event loop ----------------------------------------------------------------

    def create(self, run: Run) -> None:
        """Writes the origin of a run that begins."""
        origin, owner = run.origin, self._owner
        size = len(origin.request.body)
        self._put(
            _Event(run.id, lambda: run_file.encode_origin(origin, owner), is_first=True, size=size)
        )

    def adopt(self, run: Run, size: int) -> None:
        """Takes over the first ``size`` bytes of the file of a run that another gateway left."""
        owner = self._owner

        def cut_and_encode() -> bytes:
            os.truncate(self._path(run.id), size)
            self._sizes[run.id] = size
            return run_file.encode_owner(owner)

        self._put(_Event(run.id, cut_and_encode))

    def release(self, run: Run) -> None:
        """Lets another gateway go on with a run, whose execution has been stopped."""
        self._put(_Event(run.id, lambda: run_file.encode_owner("")))

    def sequence(self, run: Run, index: int, sequence: SequenceRequest) -> None:
        size = 4 * len(sequence.prompt)
        self._put(_Event(run.id, lambda: run_file.encode_sequence(index, sequence), size=size))

    def cached(self, run: Run, index: int, tokens: int) -> None:
        self._put(_Event(run.id, lambda: run_file.encode_cached(index, tokens)))

    def token(self, run: Run, index: int, token: Token) -> None:
        self._put(_Event(run.id, token=(index, token)))

    def end(self, run: Run) -> None:
        """Writes the whole response of a run."""
        response = RecordedResponse(run.status, run.headers, run.parts)
        self._put(_Event(run.id, lambda: run_file.encode_response(response), size=run.size))

    def erase(self, run_id: str) -> None:
        """Erases the file of a run."""
        self._put(_Event(run_id))

    def _put(self, event: _Event) -> None:
        has_room = (
            len(self._events) < MAX_QUEUED and self._queued_bytes + event.size <= MAX_QUEUED_BYTES
        )
        if not has_room and (event.encode or event.token):
            self._lost.add(event.run)
            return
        self._queued_bytes += event.size
        self._events.append(event)
        self._wake.set()

    def close(self) -> None:
        """Writes the queue and ends the thread."""
        self._closing = True
        self._wake.set()
        self._thread.join(JOIN_S)
        with suppress(OSError):
            self._owner_path(self._owner).unlink()
        os.close(self._lock)

    # Reading ---------------------------------------------------------------------------

    def read_all(self) -> list[RunFile]:
        """Reads every run on disk, oldest first. Erases what cannot be read, and the locks of
        gateways that are gone. Blocks."""
        found: list[RunFile] = []
        for path in sorted(self.folder.glob(f"*{_SUFFIX}"), key=_modified_at):
            content = self.read(path.name.removesuffix(_SUFFIX))
            if content is not None:
                found.append(content)
        for path in self.folder.glob(f"*{_OWNER_SUFFIX}"):
            self.is_alive(path.name.removesuffix(_OWNER_SUFFIX))
        return found

    def read(self, run_id: str) -> RunFile | None:
        """Reads the file of a run; None, and no file is left, when it cannot be read. Blocks."""
        path = self._path(run_id)
        try:
            content = run_file.decode_run_file(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ProtocolError) as error:
            log.warning("a run in the journal is lost", extra={"reason": str(error)})
            with suppress(OSError):
                path.unlink()
            return None
        if content.origin.id != run_id:
            return None
        self._sizes[run_id] = content.size
        return content

    def is_released(self, run_id: str) -> bool:
        """Returns whether the gateway that executed a run has released it. Blocks."""
        end = run_file.encode_owner("")
        try:
            with self._path(run_id).open("rb") as file:
                file.seek(-len(end), os.SEEK_END)
                return file.read() == end
        except OSError:
            return False

    def modified_at(self, run_id: str) -> float:
        """Returns the Unix time at which the file of a run was written; 0 without one."""
        return _modified_at(self._path(run_id))

    def is_alive(self, owner: str) -> bool:
        """Returns whether another gateway still executes the runs of ``owner``."""
        if owner == self._owner:
            return False
        path = self._owner_path(owner)
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        else:
            with suppress(OSError):
                path.unlink()
            return False
        finally:
            os.close(descriptor)

    # In the thread ---------------------------------------------------------------------

    def _write_until_closed(self) -> None:
        while not self._closing or self._events:
            self._wake.wait()
            self._wake.clear()
            self._write_queued()
            if not self._closing:
                # Tokens come one by one; a write for each would cost more than they do.
                time.sleep(BATCH_S)

    def _write_queued(self) -> None:
        tokens: dict[str, list[tuple[int, Token]]] = {}
        while self._events:
            event = self._events.popleft()
            self._queued_bytes -= event.size
            if event.token is not None:
                tokens.setdefault(event.run, []).append(event.token)
                continue
            self._append_tokens(event.run, tokens)
            if event.encode is None:
                self._erase(event.run)
                self._lost.discard(event.run)
            else:
                self._append(event.run, event.encode, event.is_first)
        for run in list(tokens):
            self._append_tokens(run, tokens)
        for run in [run for run in list(self._lost) if run in self._sizes]:
            self._erase(run)

    def _append_tokens(self, run: str, tokens: dict[str, list[tuple[int, Token]]]) -> None:
        batch = tokens.pop(run, None)
        if batch is not None:
            self._append(run, lambda: run_file.encode_tokens(batch))

    def _append(self, run: str, encode: Callable[[], bytes], is_first: bool = False) -> None:
        if run in self._lost:
            return
        try:
            lines = encode()
            if sum(self._sizes.values()) + len(lines) > self._max_bytes:
                raise OSError(f"the journal has its {self._max_bytes} bytes")
            flags = os.O_WRONLY | os.O_APPEND | (os.O_CREAT | os.O_TRUNC if is_first else 0)
            descriptor = os.open(self._path(run), flags, 0o600)
            try:
                view = memoryview(lines)
                while view:
                    view = view[os.write(descriptor, view) :]
            finally:
                os.close(descriptor)
            self._sizes[run] = self._sizes.get(run, 0) + len(lines)
            self._has_failed = False
        except Exception as error:
            self._lost.add(run)
            self._erase(run)
            if not self._has_failed:
                self._has_failed = True
                log.warning("the journal cannot be written", extra={"reason": str(error)})

    def _erase(self, run: str) -> None:
        self._sizes.pop(run, None)
        with suppress(OSError):
            self._path(run).unlink()

    def _path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}{_SUFFIX}"

    def _owner_path(self, owner: str) -> Path:
        return self.folder / f"{owner}{_OWNER_SUFFIX}"

    def _take_lock(self) -> int:
        descriptor = os.open(self._owner_path(self._owner), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
