"""Writes a client's configuration file and can restore it exactly.

What stood there before is kept beside it: the earlier file as ``NAME.before-pomona``, or an empty
``NAME.absent-before-pomona`` when there was none.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def backup_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.before-pomona")


def absence_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.absent-before-pomona")


def write_with_backup(path: Path, content: str) -> None:
    """Writes the file. Only the first write makes the backup, so the backup stays the user's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    backup, absence = backup_path(path), absence_path(path)
    if not backup.exists() and not absence.exists():
        if path.exists():
            unfinished = _unfinished(backup)
            shutil.copy2(path, unfinished)
            unfinished.replace(backup)
        else:
            absence.touch()
    unfinished = _unfinished(path)
    unfinished.write_text(content)
    unfinished.replace(path)


def restore(path: Path) -> bool:
    """Puts back what stood there before. Returns False when nothing was written."""
    backup, absence = backup_path(path), absence_path(path)
    if backup.exists():
        backup.replace(path)
        return True
    if absence.exists():
        path.unlink(missing_ok=True)
        absence.unlink()
        return True
    return False


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")
