"""Files that keep the newest epoch, the pipelines, the desired models and the drained nodes over
restarts.

Errors of the disk are logged, and planning continues without the file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from pomona.messages.control import NodeDrain, Pipeline
from pomona.messages.placement import Placement
from pomona_planner.control.desired_models import DesiredModels

log = logging.getLogger(__name__)

Content = TypeVar("Content")

_PIPELINES = TypeAdapter(tuple[Pipeline, ...])
_DRAINS = TypeAdapter(tuple[NodeDrain, ...])
_DESIRED_MODELS = TypeAdapter(DesiredModels)
_PLACEMENT = TypeAdapter(Placement)


class PlanFile:
    """The pipelines in ``plan.json`` of the state folder.

    Attributes:
        epoch: highest epoch ever written.
        pipelines: as last read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "plan.json"
        self.pipelines: tuple[Pipeline, ...] = _read(self._path, _PIPELINES) or ()
        self.epoch = max((pipeline.epoch for pipeline in self.pipelines), default=0)

    def write(self, pipelines: tuple[Pipeline, ...]) -> None:
        """Writes durably; call it before a new epoch is published."""
        self.pipelines = pipelines
        self.epoch = max([self.epoch, *(pipeline.epoch for pipeline in pipelines)])
        _write_durably(self._path, orjson.dumps(pipelines))


class DesiredModelsFile:
    """The desired models in ``models.json`` of the state folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "models.json"

    def read(self) -> DesiredModels | None:
        return _read(self._path, _DESIRED_MODELS)

    def write(self, desired: DesiredModels) -> None:
        _write_durably(self._path, orjson.dumps(desired))


class DrainsFile:
    """The decisions on drained nodes in ``drains.json`` of the state folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "drains.json"

    def read(self) -> dict[str, NodeDrain]:
        """Returns the decisions by node."""
        return {drain.node: drain for drain in _read(self._path, _DRAINS) or ()}

    def write(self, drains: Mapping[str, NodeDrain]) -> None:
        _write_durably(self._path, orjson.dumps(tuple(drains.values())))


class PlacementFile:
    """The operator's choices for machines in ``placement.json`` of the state folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "placement.json"

    def read(self) -> Placement:
        return _read(self._path, _PLACEMENT) or Placement()

    def write(self, placement: Placement) -> None:
        _write_durably(self._path, orjson.dumps(placement))


def _read(path: Path, adapter: TypeAdapter[Content]) -> Content | None:
    try:
        return adapter.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.error("%s cannot be read and is replaced: %s", path, type(error).__name__)
        return None


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
        log.error("%s cannot be written: %s; free disk space", path, error)
