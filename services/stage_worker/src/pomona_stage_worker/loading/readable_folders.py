"""Folders of this machine that a worker reads and serves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


class ReadableFolders:
    """Paths that the planner of this machine, or the settings of this machine, name.

    A planner on another machine may name any path, like a folder with keys. A model
    there is fetched from the planner's machine instead.

    Args:
        folders: folders with models, from the settings.
    """

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self._folders: Sequence[Path] = [x.expanduser().resolve() for x in folders]
        self._planned_here: set[Path] = set()

    def on_plan(self, sources: Iterable[str]) -> None:
        """Records the models of a plan that was made on this machine."""
        self._planned_here |= {Path(source).expanduser() for source in sources}

    def may_open(self, path: Path) -> bool:
        """Tests whether a path may be opened. Links are followed."""
        if path in self._planned_here:
            return True
        resolved = path.resolve()
        return any(resolved.is_relative_to(folder) for folder in self._folders)
