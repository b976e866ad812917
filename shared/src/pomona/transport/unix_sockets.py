"""Paths of Unix sockets that only processes of this user reach."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from pomona.private_files import FOLDER_MODE, make_folder

FOLDER: Final = "run"
MAX_PATH_BYTES: Final = 100
"""macOS permits 103 bytes (``sun_path`` of <sys/un.h>), Linux 107."""


def private_socket_path(state_dir: Path) -> Path:
    """Returns a new path in a folder for this user only, and removes sockets of ended processes.

    It is below the state folder, or below the folder for temporary files when that has too long a
    name. Raises OSError when the folder cannot be made, or belongs to another account.
    """
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    folder = state_dir.absolute() / FOLDER
    if len(os.fsencode(folder / name)) > MAX_PATH_BYTES:
        folder = Path(tempfile.gettempdir()) / f"pomona-{os.getuid()}"
    make_folder(folder)
    found = folder.lstat()
    if found.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    folder.chmod(FOLDER_MODE)
    for left in folder.iterdir():
        if not _is_running(left.name.partition("-")[0]):
            with suppress(OSError):
                left.unlink()
    return folder / name


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True
