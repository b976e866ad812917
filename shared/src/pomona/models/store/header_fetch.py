"""The first of a copy: its small files whole, its weight files with their headers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pomona.errors import ModelError, ModelNotFoundError
from pomona.models.formats.gguf_header import gguf_header_end
from pomona.models.formats.safetensors_index import LENGTH_BYTES, header_length, read_index
from pomona.models.store.hub_id import HubId, choose_gguf_file, parse_hub_id
from pomona.models.store.remote_source import (
    Manifest,
    Range,
    RemoteFile,
    RemoteSource,
    is_small_file,
    is_weight_file,
)

_HEADER_GUESS = 1 << 16
_LONGEST_READ = 32 << 20


def wanted_of(source: str, told: Manifest) -> Manifest:
    """What of a keeper's files makes the model, under the name of this version of it.

    Raises ModelError when that is no model, or another version than the one named.
    """
    asked = parse_hub_id(source)
    named = str(HubId(asked.name, told.version, asked.file)) if asked else source
    if asked and asked.commit not in ("", told.version):
        raise ModelNotFoundError(f"what is there is {told.version}")
    files = {n: x for n, x in told.files.items() if is_weight_file(n) or is_small_file(n, x.size)}
    folder = {name: x for name, x in files.items() if not name.endswith(".gguf")}
    whole = "config.json" in folder and any(is_weight_file(name) for name in folder)
    if whole and not (asked and asked.file):
        return Manifest(named, told.version, folder)
    if not any(name.endswith(".gguf") for name in files):
        raise ModelNotFoundError(
            f"{source} holds neither a GGUF file nor a config.json with safetensors beside it, so "
            "it is no model that can be run; executable formats are never read"
        )
    file = choose_gguf_file(files, asked.file if asked else "")
    if asked:
        named = str(HubId(asked.name, told.version, file))
    return Manifest(named, told.version, {file: files[file]})


def begin_files(
    folder: Path, manifest: Manifest, keeper: RemoteSource, note: Callable[[Path, Range], None]
) -> None:
    """Write the first of each file into ``folder``. ``note`` is told what of a weight file
    is there then; the rest of it is holes."""
    small = {n: x for n, x in manifest.files.items() if not is_weight_file(n)}
    for name, file in small.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(keeper.read(manifest, name, 0, file.size))
    weights = manifest.files.keys() - small.keys()
    named = set(read_index(folder).values()) or weights
    for name in sorted(named & weights):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        head = _head(name, manifest.files[name], manifest, keeper)
        with path.open("wb") as opened:
            opened.write(head)
            opened.truncate(manifest.files[name].size)
        note(path, (0, len(head)))


def header_end(path: Path, head: bytes, size: int) -> int | None:
    """Where the header ends of a file that begins with ``head``; None when more is needed.
    Raises ModelError when it is damaged."""
    if path.suffix == ".gguf":
        return gguf_header_end(path, head, size)
    end = LENGTH_BYTES + header_length(path, head[:LENGTH_BYTES])
    if end > size:
        raise ModelError(f"{path.name} is damaged: its header is longer than itself")
    return end


def _head(name: str, file: RemoteFile, manifest: Manifest, keeper: RemoteSource) -> bytes:
    """The header of a weight file, which a keeper that holds no more than that has too."""
    there = _first(keeper.held_ranges(manifest, name))
    if not there:
        raise ModelError(f"{keeper.name} has nothing of {name}")
    head = keeper.read(manifest, name, 0, min(there, _HEADER_GUESS))
    while (end := header_end(Path(name), head, file.size)) is None or end > len(head):
        more = min(end or 4 * len(head), len(head) + _LONGEST_READ)
        if end is None:
            more = min(more, there)
        if more <= len(head) or more > there:
            raise ModelError(f"{keeper.name} has no whole header of {name}")
        head += keeper.read(manifest, name, len(head), more)
    return head[:end]


def _first(held: Sequence[Range]) -> int:
    """Bytes at the beginning of a file that are there."""
    return held[0][1] if held and held[0][0] == 0 else 0
