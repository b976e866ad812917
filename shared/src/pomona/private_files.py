"""Files and folders that only their owner can read: state, logs and keys."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_OTHERS: Final = 0o077


def keep_private(folder: Path) -> None:
    """Makes this process create private files only, and makes a state folder private.

    A folder that is shared, like ``/tmp``, or of another user, keeps its mode.
    """
    os.umask(_OTHERS)
    with suppress(OSError):
        make_folder(folder)
        found = folder.stat()
        shared = found.st_uid != os.getuid() or found.st_mode & stat.S_ISVTX
        if shared or folder.resolve() in (Path.home().resolve(), Path("/")):
            return
        folder.chmod(FOLDER_MODE)
        for place in (folder, folder / "logs"):
            for file in place.iterdir() if place.is_dir() else ():
                if file.is_file() and not file.is_symlink() and file.stat().st_mode & _OTHERS:
                    file.chmod(FILE_MODE)


def make_folder(folder: Path) -> None:
    """Creates a folder for its owner only, unless it exists. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def write_privately(path: Path, content: bytes) -> None:
    """Replaces a file atomically, with permissions for its owner only. Raises OSError."""
    make_folder(path.parent)
    new = path.with_suffix(f".{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
