"""Creates the initial files of a copy: small files whole, weight files with their headers only."""

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

_FIRST_READ_BYTES = 1 << 16
_MAX_READ_BYTES = 32 << 20


def select_files(source: str, remote: Manifest) -> Manifest:
    """Selects the files that make up the model.

    Returns:
        A manifest whose ``source`` names this version of the model.

    Raises:
        ModelError: when the files are not a model, or of another commit than ``source`` names.
    """
    hub_id = parse_hub_id(source)
    versioned = str(HubId(hub_id.name, remote.version, hub_id.file)) if hub_id else source
    if hub_id and hub_id.commit not in ("", remote.version):
        raise ModelNotFoundError(f"the version there is {remote.version}")
    files = {n: x for n, x in remote.files.items() if is_weight_file(n) or is_small_file(n, x.size)}
    folder = {name: x for name, x in files.items() if not name.endswith(".gguf")}
    is_complete = "config.json" in folder and any(is_weight_file(name) for name in folder)
    if is_complete and not (hub_id and hub_id.file):
        return Manifest(versioned, remote.version, folder)
    if not any(name.endswith(".gguf") for name in files):
        raise ModelNotFoundError(
            f"{source} is not a model that can be run: it has neither a GGUF file nor a "
            "config.json with safetensors; executable formats are never read"
        )
    file = choose_gguf_file(files, hub_id.file if hub_id else "")
    if hub_id:
        versioned = str(HubId(hub_id.name, remote.version, file))
    return Manifest(versioned, remote.version, {file: files[file]})


def create_files(
    folder: Path,
    manifest: Manifest,
    remote: RemoteSource,
    record: Callable[[Path, Range], None],
) -> None:
    """Writes the initial files into ``folder``. The rest of each weight file is a hole.

    Args:
        record: called with each weight file and the range of its header.
    """
    small = {n: x for n, x in manifest.files.items() if not is_weight_file(n)}
    for name, file in small.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(remote.read(manifest, name, 0, file.size))
    weights = manifest.files.keys() - small.keys()
    indexed = set(read_index(folder).values()) or weights
    for name in sorted(indexed & weights):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        header = _fetch_header(name, manifest.files[name], manifest, remote)
        with path.open("wb") as opened:
            opened.write(header)
            opened.truncate(manifest.files[name].size)
        record(path, (0, len(header)))


def header_end(path: Path, head: bytes, size: int) -> int | None:
    """Returns the offset of a header's end, or None when ``head`` is too short to tell.

    Args:
        head: the first bytes of the file.
        size: length of the file in bytes.

    Raises:
        ModelError: when the header is damaged.
    """
    if path.suffix == ".gguf":
        return gguf_header_end(path, head, size)
    end = LENGTH_BYTES + header_length(path, head[:LENGTH_BYTES])
    if end > size:
        raise ModelError(f"{path.name} is damaged: its header is longer than the file")
    return end


def _fetch_header(name: str, file: RemoteFile, manifest: Manifest, remote: RemoteSource) -> bytes:
    """Fetches the header of a weight file from a source that may hold only the header."""
    available = _leading_bytes(remote.held_ranges(manifest, name))
    if not available:
        raise ModelError(f"{remote.name} does not have the beginning of {name}")
    first = remote.header_bytes(manifest, name) or _FIRST_READ_BYTES
    head = remote.read(manifest, name, 0, min(available, first))
    while (end := header_end(Path(name), head, file.size)) is None or end > len(head):
        target = min(end or 4 * len(head), len(head) + _MAX_READ_BYTES)
        if end is None:
            target = min(target, available)
        if target <= len(head) or target > available:
            raise ModelError(f"{remote.name} does not have the whole header of {name}")
        head += remote.read(manifest, name, len(head), target)
    return head[:end]


def _leading_bytes(ranges: Sequence[Range]) -> int:
    """Returns the length of the range that starts at offset 0."""
    return ranges[0][1] if ranges and ranges[0][0] == 0 else 0
