"""Refuses the share of a model under which a Mac has panicked.

A node that starts at boot and loads the share that brought the kernel down would bring it down at
every boot.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError

from pomona import host

log = logging.getLogger(__name__)

REPORTS: Final = Path("/Library/Logs/DiagnosticReports")
"""Folder in which macOS writes a ``.panic`` report at the boot after a panic."""


@dataclass(frozen=True, slots=True)
class Share:
    """Layers ``[start, stop)`` of a model, and the limits under which they are loaded.

    Attributes:
        usable_bytes: memory that weights and caches may use.
        wired: the weights are wired.
    """

    source: str
    start: int
    stop: int
    usable_bytes: int
    wired: bool


@dataclass(frozen=True, slots=True)
class _Record:
    """Content of the file.

    Attributes:
        alive_at: Unix time at which a process of this name last stopped cleanly, or began to load
            a share, seconds. Older panics have another cause.
        share: what has been loaded since.
        refused, panicked_at: the share of the last panic, until a clean stop.
    """

    alive_at: float = 0.0
    share: Share | None = None
    refused: Share | None = None
    panicked_at: float = 0.0


_RECORD: Final = TypeAdapter(_Record)


class PanicGuard:
    """Remembers the share that is loaded, and whether the last process of this name ended cleanly.

    Args:
        state_dir: folder of the record.
        name: name of the worker in the cluster.
        reports: folder of the system's reports.
    """

    def __init__(self, state_dir: Path, name: str, reports: Path = REPORTS) -> None:
        self._path = state_dir / f"{name}.share.json"
        self._record = record = self._load()
        panicked_at = newest_panic(reports) if host.is_mac() and record.share is not None else 0.0
        if panicked_at > record.alive_at:
            log.error("this Mac panicked while layers were loaded: see %s", reports)
            self._record = replace(record, refused=record.share, panicked_at=panicked_at)

    @property
    def panicked_at(self) -> float:
        """Unix time of the panic after which a share is refused, seconds; 0 without one."""
        return self._record.panicked_at

    def refusal(self, share: Share) -> str:
        """Returns why this share must not be loaded, and the remedy; empty if it may."""
        if share != self._record.refused:
            return ""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.panicked_at))
        return (
            f"this Mac panicked at {when} while it held these layers with these limits. Lower "
            "POMONA_STAGE_WORKER_MEMORY_BYTES, set POMONA_STAGE_WORKER_WIRED_WEIGHTS=false, or "
            "restart this stage worker to load them once more"
        )

    def hold(self, share: Share) -> None:
        """Records a share before it is loaded."""
        self._store(replace(self._record, alive_at=time.time(), share=share))

    def stop(self) -> None:
        """Records that this process ends cleanly."""
        self._store(_Record(time.time()))

    def _load(self) -> _Record:
        try:
            return _RECORD.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return _Record()

    def _store(self, record: _Record) -> None:
        self._record = record
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(orjson.dumps(asdict(record)))
        except OSError as error:
            log.warning("cannot record the share in %s: %s", self._path, error)


def newest_panic(reports: Path) -> float:
    """Returns the Unix time of the newest ``.panic`` report, seconds; 0 without one."""
    newest = 0.0
    try:
        for report in reports.glob("*.panic"):
            newest = max(newest, report.stat().st_mtime)
    except OSError:
        return newest
    return newest
