"""The health watcher's state on disk: unresolved alerts and known services.

One JSON file in the state folder, replaced as a whole. A file that cannot be read is ignored,
so that the watcher starts anyway.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from pomona.messages.control import Alert
from pomona_health_watcher.loss_rules import KnownService

log = logging.getLogger(__name__)

VALID_S: Final = 3600.0
"""Seconds after which the services in a state file are ignored."""


@dataclass(frozen=True, slots=True)
class WatcherState:
    """Attributes:
    at: Unix time in seconds at which the watcher last wrote it.
    clean: the watcher stopped after SIGTERM, not by a crash.
    unresolved: alerts delivered to people and not resolved.
    known: the services it knew.
    """

    at: float
    clean: bool
    unresolved: Annotated[tuple[Alert, ...], Field(alias="told")] = ()
    known: tuple[KnownService, ...] = ()

    def expected_services(self, unix: float) -> tuple[KnownService, ...]:
        """Returns the services that should be running when the watcher starts at ``unix``.

        While a cleanly stopped watcher is away, services may be stopped or moved on purpose. It
        therefore expects only those with an alert, which ends when they are back.
        """
        if unix - self.at > VALID_S:
            return ()
        if not self.clean:
            return self.known
        return tuple(x for x in self.known if x.lost and (x.alerted or x.alerted_with_node))


_STATE = TypeAdapter(WatcherState)


def read_state(path: Path) -> WatcherState | None:
    """Returns the state of the former process; None without a readable file."""
    try:
        return _STATE.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("state file ignored, it cannot be read: %s", type(error).__name__)
        return None


def write_state(path: Path, state: WatcherState) -> None:
    """Replaces the file. A full disk is logged, and watching goes on."""
    fresh = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(_STATE.dump_json(state, by_alias=True))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        log.warning("state file cannot be written: %s", error)
