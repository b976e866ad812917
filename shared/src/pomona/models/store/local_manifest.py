"""Lists the files of a model that lies on this machine where its owner put it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pomona.models.store.remote_source import (
    Manifest,
    RemoteFile,
    is_small_file,
    is_weight_file,
)

Stamp = tuple[int, int, int]
"""Size, modification time in nanoseconds and inode of a file, which every replacement changes."""


def model_folder(source: str) -> Path | None:
    """Returns the folder that a path names, or the folder of the GGUF file that it names."""
    path = Path(source).expanduser()
    if not path.is_absolute():
        return None
    if path.is_file() and path.suffix == ".gguf":
        return path.parent
    return path if path.is_dir() else None


def local_files(source: str, folder: Path) -> dict[str, Stamp]:
    """Returns the model's files by their path in ``folder``, links out of it excluded.

    Raises OSError.
    """
    found: dict[str, Stamp] = {}
    alone = Path(source).expanduser()
    for file in [alone] if alone.is_file() else sorted(folder.rglob("*")):
        name, stat = file.relative_to(folder).as_posix(), file.stat()
        wanted = is_weight_file(name) or is_small_file(name, stat.st_size)
        if wanted and file.is_file() and (file == alone or _is_inside(file, folder)):
            found[name] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return found


def local_manifest(source: str, folder: Path, files: Mapping[str, Stamp]) -> Manifest:
    """Returns a manifest whose version is a digest of names, sizes and headers.

    Args:
        files: the result of :func:`local_files`.

    Raises OSError.
    """
    digest = hashlib.sha256()
    for name, (size, _, _) in files.items():
        digest.update(f"{name} {size} ".encode())
        with (folder / name).open("rb") as opened:
            digest.update(opened.read(1 << 16 if is_weight_file(name) else size))
    sizes = {name: RemoteFile(stamp[0]) for name, stamp in files.items()}
    return Manifest(source, digest.hexdigest(), sizes)


def _is_inside(file: Path, folder: Path) -> bool:
    """Returns whether a file resolves into the model's folder or the hub cache's blobs."""
    home = folder.resolve()
    homes = (home, home.parent.parent / "blobs") if home.parent.name == "snapshots" else (home,)
    return any(file.resolve().is_relative_to(place) for place in homes)
