"""What the planner remembers over its own death: the newest epoch and pipelines."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from pomona.messages.control import Pipeline
from pomona_planner.control.desired_models import DesiredModels

log = logging.getLogger(__name__)

_PIPELINES = TypeAdapter(tuple[Pipeline, ...])
_WANTS = TypeAdapter(DesiredModels)


class PlanMemory:
    """A file in the state folder. A disk that fails is said, and planning goes on."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "plan.json"
        self.epoch = 0
        self.pipelines: tuple[Pipeline, ...] = ()
        self._read()

    def _read(self) -> None:
        try:
            content = self._path.read_bytes()
            self.pipelines = _PIPELINES.validate_json(content)
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            log.error("%s cannot be read and is begun anew: %s", self._path, type(error).__name__)
            return
        self.epoch = max((pipeline.epoch for pipeline in self.pipelines), default=0)

    def write(self, pipelines: tuple[Pipeline, ...]) -> None:
        """Remember, durably, before anybody hears of a new epoch."""
        self.pipelines = pipelines
        self.epoch = max([self.epoch, *(pipeline.epoch for pipeline in pipelines)])
        _write_durably(self._path, orjson.dumps(pipelines))


class WantMemory:
    """What should be loaded, as the newest requests had it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "models.json"

    def read(self) -> DesiredModels | None:
        try:
            return _WANTS.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.error("%s cannot be read and is begun anew: %s", self._path, type(error).__name__)
            return None

    def write(self, wants: DesiredModels) -> None:
        _write_durably(self._path, orjson.dumps(wants))


def _write_durably(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        log.error("the plan cannot be written to %s: %s; free some disk", path, error)
