"""Local sparse copies of models on the hub or on a peer's disk.

A copy is a folder or a GGUF file with sparse weight files: each has its header, its full size and
the tensors that were fetched so far. The rest are holes, which take no disk space. A hidden file
beside each weight file records the ranges it holds. Code that reads only headers, or only fetched
tensors, needs no knowledge of copies.

Several processes may fill one copy: they write the same bytes at the same offsets.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from pomona import host
from pomona.errors import ModelError, ModelNotFoundError
from pomona.models.formats.safetensors_index import TensorPlace
from pomona.models.store.header_fetch import create_files, header_end, select_files
from pomona.models.store.hub_id import is_hub_id
from pomona.models.store.remote_source import Manifest, Range, RemoteSource, is_weight_file

CHUNK_BYTES = 32 << 20
"""Largest range that is fetched, written and recorded at once."""
_MANIFEST = ".pomona.json"

_MANIFESTS = TypeAdapter(Manifest)
_RANGES = TypeAdapter(tuple[Range, ...])


def models_dir() -> Path:
    """Returns the folder of all copies: ``POMONA_MODELS_DIR``, else ``~/.pomona/models``."""
    configured = os.environ.get("POMONA_MODELS_DIR")
    return Path(configured).expanduser() if configured else Path.home() / ".pomona" / "models"


def folder_name(source: str) -> str:
    """Returns a copy's folder name: readable, unique, and safe as a single path component."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "--", source).strip(".-")[-80:]
    return f"{readable}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


class SparseCopy:
    """A sparse copy in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.manifest = _MANIFESTS.validate_json((folder / _MANIFEST).read_bytes())
        except (OSError, ValidationError) as error:
            raise ModelError(
                f"{folder} is not a valid copy of a model; delete it to fetch it again"
            ) from error

    @classmethod
    def find(cls, source: str) -> SparseCopy | None:
        """Returns this machine's copy of ``source``, if there is one."""
        for folder in (models_dir() / folder_name(source), _pinned_folder(source)):
            if folder is not None and (folder / _MANIFEST).is_file():
                return cls(folder)
        return None

    @classmethod
    def create(cls, source: str, remotes: Sequence[RemoteSource]) -> SparseCopy:
        """Creates or finds the copy of the current version of ``source``.

        Small files and headers come from the first remote source that has them. A copy never
        changes its version, and its manifest's ``source`` names that version where possible.
        ``source`` alone keeps its meaning on this machine until the next call.

        Raises ModelError with the answer of each remote source.
        """
        failures: list[str] = []
        for remote in remotes:
            try:
                return cls(_create_folder(source, remote))
            except ModelError as error:
                failures.append(f"{remote.name}: {error}")
            except OSError as error:
                raise _write_error(models_dir(), error) from error
        reason = "; ".join(failures) or "no source is known"
        raise ModelNotFoundError(f"{source} cannot be fetched: {reason}")

    @property
    def path(self) -> Path:
        """Path of the model: a GGUF file, or the folder."""
        file = next(iter(self.manifest.files))
        return self.folder / file if file.endswith(".gguf") else self.folder

    def held_ranges(self, file: str) -> tuple[Range, ...]:
        """Returns the ranges of a weight file that this copy holds, sorted and disjoint."""
        try:
            return _RANGES.validate_json(self._record_file(file).read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError) as error:
            raise ModelError(f"{self._record_file(file)} cannot be read; delete it") from error

    def missing_ranges(self, places: Iterable[TensorPlace]) -> dict[str, list[Range]]:
        """Returns the missing ranges of these tensors by file, with adjacent ones merged."""
        required: dict[str, list[Range]] = {}
        for place in places:
            if place.end > place.begin:
                file = place.file.relative_to(self.folder).as_posix()
                required.setdefault(file, []).append((place.begin, place.end))
        missing: dict[str, list[Range]] = {}
        for file, ranges in required.items():
            if left := _subtract(_merge(ranges), self.held_ranges(file)):
                missing[file] = left
        return missing

    def missing_in_file(self, file: str) -> list[Range]:
        """Returns all missing ranges of a weight file."""
        return _subtract([(0, self.manifest.files[file].size)], self.held_ranges(file))

    def link_file(self, file: str, complete: Path) -> None:
        """Replaces a weight file by a link to a complete one, if that has the right size."""
        size = self.manifest.files[file].size
        if not complete.is_file() or complete.stat().st_size != size:
            return
        link = _hidden_beside(self.folder / file, f"{os.getpid()}")
        link.symlink_to(complete.resolve())
        link.replace(self.folder / file)
        self._record(file, (0, size))

    def weight_files(self) -> list[str]:
        """Returns the weight files of this copy."""
        return sorted(
            x for x in self.manifest.files if is_weight_file(x) and (self.folder / x).is_file()
        )

    def held_bytes(self) -> tuple[int, int]:
        """Returns the bytes of weights that this copy holds, and of the whole model."""
        files = self.weight_files()
        held = sum(end - begin for file in files for begin, end in self.held_ranges(file))
        return held, sum(self.manifest.files[file].size for file in files)

    def mark_not_fetched(self, file: str) -> None:
        """Marks everything but the header of a weight file as not fetched."""
        with self._locked():
            path = self.folder / file
            with path.open("rb") as opened:
                head = opened.read(self.held_ranges(file)[0][1])
            end = header_end(path, head, self.manifest.files[file].size)
            _record_only(path, (0, end or 0))

    def fetch(self, file: str, begin: int, end: int, remotes: Sequence[RemoteSource]) -> str:
        """Fetches one range from the first remote source that has it, and returns its name.

        Raises ModelError with the answer of each remote source.
        """
        failures: list[str] = []
        for remote in remotes:
            try:
                content = remote.read(self.manifest, file, begin, end)
            except ModelError as error:
                failures.append(f"{remote.name}: {error}")
                continue
            self.write(file, begin, content)
            return remote.name
        raise ModelError(
            f"{self.folder / file}: bytes {begin} to {end} cannot be fetched: "
            f"{'; '.join(failures) or 'no source is known'}"
        )

    def write(self, file: str, begin: int, content: bytes) -> None:
        """Writes and syncs a range, then records it. Raises ModelError when the disk fails."""
        try:
            with (self.folder / file).open("r+b") as opened:
                opened.seek(begin)
                opened.write(content)
                opened.flush()
                host.sync(opened.fileno())
            self._record(file, (begin, begin + len(content)))
        except OSError as error:
            raise _write_error(self.folder / file, error) from error

    def _record(self, file: str, added: Range) -> None:
        with self._locked():
            ranges = _merge([*self.held_ranges(file), added])
            record_file = self._record_file(file)
            temporary = record_file.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(orjson.dumps(ranges))
            temporary.replace(record_file)

    def _record_file(self, file: str) -> Path:
        return _hidden_beside(self.folder / file, "held")

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Holds the copy's lock. For writes of a few bytes only."""
        with (self.folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def local_copies() -> list[SparseCopy]:
    """Returns all readable copies of this machine."""
    found: list[SparseCopy] = []
    for manifest in sorted(models_dir().glob(f"*/{_MANIFEST}")):
        with suppress(ModelError):
            found.append(SparseCopy(manifest.parent))
    return found


def split_ranges(
    missing: Mapping[str, Sequence[Range]], remote: Mapping[str, Sequence[Range]]
) -> list[tuple[str, int, int]]:
    """Splits missing ranges into chunks that one remote source can serve.

    Args:
        missing: ranges to fetch, by file.
        remote: ranges that the remote sources hold together, by file. No chunk crosses the
            boundary of one.

    Returns:
        File, begin and end of each chunk of at most CHUNK_BYTES.
    """
    found: list[tuple[str, int, int]] = []
    for file, ranges in missing.items():
        edges = sorted({edge for held in remote.get(file, ()) for edge in held})
        for begin, end in ranges:
            cuts = [begin, *(edge for edge in edges if begin < edge < end), end]
            found += [
                (file, at, min(at + CHUNK_BYTES, upper))
                for lower, upper in pairwise(cuts)
                for at in range(lower, upper, CHUNK_BYTES)
            ]
    return found


def _write_error(path: Path, error: OSError) -> ModelError:
    return ModelError(
        f"{path} cannot be written: {error.strerror}; free some space on that disk, or set "
        "POMONA_MODELS_DIR to a folder on another one"
    )


def _create_folder(source: str, remote: RemoteSource) -> Path:
    manifest = select_files(source, remote.manifest(source))
    parent = models_dir()
    parent.mkdir(parents=True, exist_ok=True)
    versioned = manifest.source if is_hub_id(source) else f"{source}@{manifest.version}"
    final = parent / folder_name(versioned)
    if not (final / _MANIFEST).is_file():
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        try:
            create_files(folder, manifest, remote, _record_only)
            (folder / _MANIFEST).write_bytes(orjson.dumps(asdict(manifest)))
            try:
                folder.rename(final)
            except OSError:  # another process was first
                if not (final / _MANIFEST).is_file():
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if versioned != source:
        temporary = _pin_file(source).with_suffix(f".{os.getpid()}")
        temporary.write_text(final.name)
        temporary.replace(_pin_file(source))
    return final


def _pin_file(source: str) -> Path:
    """Returns the file that names the copy which ``source`` refers to on this machine."""
    return models_dir() / f"{folder_name(source)}.pin"


def _pinned_folder(source: str) -> Path | None:
    try:
        return models_dir() / Path(_pin_file(source).read_text()).name
    except OSError:
        return None


def _hidden_beside(file: Path, kind: str) -> Path:
    """Returns the path of a hidden file of Pomona's own beside a weight file."""
    return file.with_name(f".{file.name}.{kind}")


def _record_only(file: Path, held: Range) -> None:
    """Records that a weight file holds this one range."""
    _hidden_beside(file, "held").write_bytes(orjson.dumps([held]))


def _merge(ranges: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for begin, end in sorted(ranges):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _subtract(ranges: Iterable[Range], covered: Iterable[Range]) -> list[Range]:
    """Returns the parts of ``ranges`` outside ``covered``, which is sorted and disjoint."""
    left: list[Range] = []
    for begin, end in ranges:
        at = begin
        for covered_begin, covered_end in covered:
            if covered_end <= at or covered_begin >= end:
                continue
            if covered_begin > at:
                left.append((at, covered_begin))
            at = max(at, covered_end)
        if at < end:
            left.append((at, end))
    return left
