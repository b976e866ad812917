"""Computes the digests of the models on this machine and keeps them beside its copies.

Each file is read once: its digests are kept with its size, time and inode. Those of a copy's
ranges never change, because a copy keeps its version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError

from pomona.errors import ModelError
from pomona.models.formats.gguf_header import read_gguf_header
from pomona.models.formats.safetensors_index import read_header
from pomona.models.store.header_fetch import header_end
from pomona.models.store.local_manifest import Stamp, local_files, local_manifest, model_folder
from pomona.models.store.remote_source import is_weight_file
from pomona.models.store.sparse_copy import SparseCopy, folder_name, models_dir
from pomona.models.store.weight_digests import (
    MAX_TABLE_BYTES,
    SEGMENT_BYTES,
    DigestTable,
    FileDigests,
    Segment,
    encode_table,
)
from pomona.private_files import write_privately

_FOLDER: Final = "digests"
_HEAD_BYTES: Final = 1 << 20
_MAX_HEAD_BYTES: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class _Kept:
    """A table and the stamps of the files from which it was computed."""

    table: DigestTable
    stamps: dict[str, Stamp] = field(default_factory=dict[str, Stamp])


_KEPT = TypeAdapter(_Kept)


def compute_table(source: str) -> DigestTable:
    """Returns the digests of what this machine has of a model, and keeps them on its disk.

    Files whose digests are kept are not read again. Raises ModelError when the model is not here,
    or cannot be read.
    """
    kept = _read(source)
    try:
        folder = model_folder(source)
        if folder is not None:
            found = _of_folder(source, folder, kept)
        else:
            copy = SparseCopy.find(source)
            if copy is None:
                raise ModelError(f"{source} is not on this machine")
            found = _of_copy(copy, kept)
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error}") from error
    if found != kept:
        _write(source, found)
    return found.table


def content_stamp(source: str) -> object:
    """Returns a value that changes with what this machine has of a model. Raises no error."""
    try:
        folder = model_folder(source)
        if folder is not None:
            return local_files(source, folder)
        copy = SparseCopy.find(source)
        if copy is None:
            return None
        ranges = {name: copy.held_ranges(name) for name in copy.weight_files()}
        return copy.manifest.version, ranges
    except (OSError, ModelError):
        return None


def kept_table(source: str, digest: str) -> bytes | None:
    """Returns the encoded table with this digest, if this machine keeps it."""
    kept = _read(source)
    if kept is None or not digest:
        return None
    content = encode_table(kept.table)
    return content if hashlib.sha256(content).hexdigest() == digest else None


def _of_folder(source: str, folder: Path, kept: _Kept | None) -> _Kept:
    stamps = local_files(source, folder)
    version = local_manifest(source, folder, stamps).version
    files: dict[str, FileDigests] = {}
    for name, stamp in stamps.items():
        known = kept.table.files.get(name) if kept and kept.stamps.get(name) == stamp else None
        whole = [(0, stamp[0])]
        if known is None:
            try:
                known = FileDigests(stamp[0], _digests(folder / name, name, whole, ()))
            except ModelError:  # a damaged file beside those that the index names
                known = FileDigests(stamp[0], ())
        files[name] = known
    return _Kept(DigestTable(version, files), stamps)


def _of_copy(copy: SparseCopy, kept: _Kept | None) -> _Kept:
    """Returns the digests of the ranges that a copy holds."""
    version = copy.manifest.version
    before = kept.table.files if kept is not None and kept.table.version == version else {}
    files: dict[str, FileDigests] = {}
    for name, remote in copy.manifest.files.items():
        path = copy.folder / name
        if not path.is_file():
            continue
        held = copy.held_ranges(name) if is_weight_file(name) else [(0, remote.size)]
        known = before[name].segments if name in before else ()
        files[name] = FileDigests(remote.size, _digests(path, name, held, known))
    return _Kept(DigestTable(version, files))


def _digests(
    path: Path, name: str, held: Iterable[tuple[int, int]], known: tuple[Segment, ...]
) -> tuple[Segment, ...]:
    """Returns the segments that ``held`` ranges contain. ``known`` ones are not read."""
    ranges = list(held)
    before = {(begin, end): digest for begin, end, digest in known}
    found: list[Segment] = []
    with path.open("rb") as file:
        for begin, end in _segments(path, name):
            if not any(lower <= begin and end <= upper for lower, upper in ranges):
                continue
            digest = before.get((begin, end))
            if digest is None:
                file.seek(begin)
                content = file.read(end - begin)
                if len(content) != end - begin:
                    raise ModelError(f"{path} is cut short; fetch it again")
                digest = hashlib.sha256(content).hexdigest()
            found.append((begin, end, digest))
    return tuple(found)


def _segments(path: Path, name: str) -> Iterator[tuple[int, int]]:
    """Yields the byte ranges of a file's segments in order."""
    size = path.stat().st_size
    if not is_weight_file(name):
        yield 0, size
        return
    end = _header_end(path, size)
    for at in range(0, end, SEGMENT_BYTES):
        yield at, min(at + SEGMENT_BYTES, end)
    if path.suffix == ".gguf":
        tensors = [(x.begin, x.begin + x.stored_bytes) for x in read_gguf_header(path).tensors]
    else:
        tensors = [(x.begin, x.end) for x in read_header(path).values()]
    for begin, stop in sorted(tensors):
        for at in range(max(begin, end), stop, SEGMENT_BYTES):
            yield at, min(at + SEGMENT_BYTES, stop)
        end = max(end, stop)


def _header_end(path: Path, size: int) -> int:
    length = _HEAD_BYTES
    with path.open("rb") as file:
        while length <= _MAX_HEAD_BYTES:
            file.seek(0)
            end = header_end(path, file.read(length), size)
            if end is not None:
                return end
            length *= 4
    raise ModelError(f"{path} has a header of more than {_MAX_HEAD_BYTES} bytes")


def _file(source: str) -> Path:
    return models_dir() / _FOLDER / f"{folder_name(source)}.json"


def _read(source: str) -> _Kept | None:
    try:
        path = _file(source)
        if path.stat().st_size > 2 * MAX_TABLE_BYTES:
            return None
        return _KEPT.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _write(source: str, kept: _Kept) -> None:
    write_privately(_file(source), orjson.dumps(kept))
