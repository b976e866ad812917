"""What outlives the health watcher: whom it knew, and what it told and did not resolve.

One JSON file in the state folder, replaced as a whole. A file that cannot be read counts
as none: the watcher starts anyway.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError

from pomona.messages.control import Alert
from pomona_health_watcher.rules import Known

log = logging.getLogger(__name__)

VALID_S: Final = 3600.0
"""Seconds after which the services in a record are history."""


@dataclass(frozen=True, slots=True)
class WatcherState:
    """Attributes:
    at: Unix time in seconds of the last sign of life.
    clean: the watcher said goodbye.
    told: alerts raised to people and not resolved.
    known: the services it knew.
    """

    at: float
    clean: bool
    told: tuple[Alert, ...] = ()
    known: tuple[Known, ...] = ()

    def expected(self, unix: float) -> tuple[Known, ...]:
        """The services that should be there when the watcher starts at ``unix``.

        After a goodbye others may have been stopped or moved meanwhile: only who was told
        to be lost is still expected, so that the alert ends when it is back.
        """
        if unix - self.at > VALID_S:
            return ()
        told = tuple(x for x in self.known if x.lost and (x.alone or x.with_node))
        return told if self.clean else self.known


_RECORD = TypeAdapter(WatcherState)


def read_state(path: Path) -> WatcherState | None:
    """The record of the former process; None when there is none to be used."""
    try:
        return _RECORD.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("the former state cannot be read: %s", type(error).__name__)
        return None


def write_state(path: Path, record: WatcherState) -> None:
    """Replace the record. A full disk is logged: watching goes on."""
    fresh = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(orjson.dumps(record))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        log.warning("the state cannot be kept: %s", error)
