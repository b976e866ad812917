"""Copies of models that are elsewhere: on the hub, or on the disk of a peer.

A copy is a folder, or a GGUF file, like any other, except that its weight files are sparse:
each has its header and its full size, and of its tensors those that somebody here has wanted
so far; the rest are holes, which take no disk. Beside each file stands what it holds. So
whoever reads headers only, or only tensors that were asked for before, needs not know that
it is a copy.

Several processes may fill one copy: they write the same bytes to the same places.
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

from pomona.errors import ModelError, ModelNotFoundError
from pomona.models.formats.safetensors_index import TensorPlace
from pomona.models.store.header_fetch import begin_files, header_end, wanted_of
from pomona.models.store.hub_id import is_hub_id
from pomona.models.store.remote_source import Manifest, Range, RemoteSource, is_weight_file

CHUNK_BYTES = 32 << 20
"""What is fetched, written and noted at once."""
_MANIFEST = ".pomona.json"

_MANIFESTS = TypeAdapter(Manifest)
_RANGES = TypeAdapter(tuple[Range, ...])


def models_dir() -> Path:
    """Where copies are kept: ``POMONA_MODELS_DIR``, else ``~/.pomona/models``."""
    asked = os.environ.get("POMONA_MODELS_DIR")
    return Path(asked).expanduser() if asked else Path.home() / ".pomona" / "models"


def folder_name(source: str) -> str:
    """The name of a copy's folder, readable for a hub id, without any way out of its parent."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "--", source).strip(".-")[-80:]
    return f"{readable}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


class SparseCopy:
    """A copy in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.manifest = _MANIFESTS.validate_json((folder / _MANIFEST).read_bytes())
        except (OSError, ValidationError) as error:
            raise ModelError(
                f"{folder} is no whole copy of a model; delete it to fetch it anew"
            ) from error

    @classmethod
    def find(cls, source: str) -> SparseCopy | None:
        """The copy of ``source`` on this machine, if there is one."""
        for folder in (models_dir() / folder_name(source), _pinned(source)):
            if folder is not None and (folder / _MANIFEST).is_file():
                return cls(folder)
        return None

    @classmethod
    def create(cls, source: str, keepers: Sequence[RemoteSource]) -> SparseCopy:
        """The copy of what ``source`` names now, with small files and headers at least, from
        the first keeper that has them. Raises ModelError saying what each of them answered.

        A copy is of one version for ever. Its manifest's ``source`` names that version too,
        where it can: what ``source`` alone means here does not change until it is begun again.
        """
        refusals: list[str] = []
        for keeper in keepers:
            try:
                return cls(_begun(source, keeper))
            except ModelError as error:
                refusals.append(f"{keeper.name}: {error}")
            except OSError as error:
                raise _unwritten(models_dir(), error) from error
        raise ModelNotFoundError(f"{source} cannot be fetched: {'; '.join(refusals) or 'no one'}")

    @property
    def path(self) -> Path:
        """The model: a GGUF file, or the folder."""
        file = next(iter(self.manifest.files))
        return self.folder / file if file.endswith(".gguf") else self.folder

    def held_ranges(self, file: str) -> tuple[Range, ...]:
        """The ranges of a weight file that are here, sorted and apart."""
        try:
            return _RANGES.validate_json(self._notes(file).read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError) as error:
            raise ModelError(f"{self._notes(file)} cannot be read; delete it") from error

    def missing_ranges(self, places: Iterable[TensorPlace]) -> dict[str, list[Range]]:
        """By file, the ranges of these tensors that are not here, adjoining ones as one."""
        wanted: dict[str, list[Range]] = {}
        for place in places:
            if place.end > place.begin:
                file = place.file.relative_to(self.folder).as_posix()
                wanted.setdefault(file, []).append((place.begin, place.end))
        lacking: dict[str, list[Range]] = {}
        for file, ranges in wanted.items():
            missing = _without(_merged(ranges), self.held_ranges(file))
            if missing:
                lacking[file] = missing
        return lacking

    def link_file(self, file: str, whole: Path) -> None:
        """Let ``whole``, which somebody else keeps, stand for a weight file."""
        size = self.manifest.files[file].size
        if not whole.is_file() or whole.stat().st_size != size:
            return
        link = _beside(self.folder / file, f"{os.getpid()}")
        link.symlink_to(whole.resolve())
        link.replace(self.folder / file)
        self._note(file, (0, size))

    def weight_files(self) -> list[str]:
        """Those that this copy is made of."""
        return sorted(
            x for x in self.manifest.files if is_weight_file(x) and (self.folder / x).is_file()
        )

    def held_bytes(self) -> tuple[int, int]:
        """Bytes of the weights that are here, and of all."""
        files = self.weight_files()
        held = sum(end - begin for file in files for begin, end in self.held_ranges(file))
        return held, sum(self.manifest.files[file].size for file in files)

    def missing_in_file(self, file: str) -> list[Range]:
        """The ranges of a whole weight file that are not here."""
        return _without([(0, self.manifest.files[file].size)], self.held_ranges(file))

    def mark_not_fetched(self, file: str) -> None:
        """Take what is here of a weight file, but its header, for not fetched."""
        with self._locked():
            path = self.folder / file
            with path.open("rb") as opened:
                first = opened.read(self.held_ranges(file)[0][1])
            end = header_end(path, first, self.manifest.files[file].size)
            _note_first(path, (0, end or 0))

    def fetch(self, file: str, begin: int, end: int, keepers: Sequence[RemoteSource]) -> str:
        """Fetch one piece from the first keeper that has it; the keeper's name."""
        refusals: list[str] = []
        for keeper in keepers:
            try:
                content = keeper.read(self.manifest, file, begin, end)
            except ModelError as error:
                refusals.append(f"{keeper.name}: {error}")
                continue
            self.write(file, begin, content)
            return keeper.name
        raise ModelError(
            f"{self.folder / file}: bytes {begin} to {end} cannot be fetched: "
            f"{'; '.join(refusals) or 'nobody has them'}"
        )

    def write(self, file: str, begin: int, content: bytes) -> None:
        """Put bytes in their place, durably, then note that they are here.

        Raises ModelError when the disk does not take them.
        """
        try:
            with (self.folder / file).open("r+b") as opened:
                opened.seek(begin)
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            self._note(file, (begin, begin + len(content)))
        except OSError as error:
            raise _unwritten(self.folder / file, error) from error

    def _note(self, file: str, here: Range) -> None:
        with self._locked():
            ranges = _merged([*self.held_ranges(file), here])
            notes = self._notes(file)
            temporary = notes.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(orjson.dumps(ranges))
            temporary.replace(notes)

    def _notes(self, file: str) -> Path:
        return _beside(self.folder / file, "held")

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Held for the writing of a few bytes only."""
        with (self.folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def local_copies() -> list[SparseCopy]:
    """All copies on this machine that can be read."""
    found: list[SparseCopy] = []
    for manifest in sorted(models_dir().glob(f"*/{_MANIFEST}")):
        with suppress(ModelError):
            found.append(SparseCopy(manifest.parent))
    return found


def split_ranges(
    lacking: Mapping[str, Sequence[Range]], keepers: Mapping[str, Sequence[Range]]
) -> list[tuple[str, int, int]]:
    """File, begin and end of what to fetch at once: never across the end of a range that some
    keeper has. ``keepers``: by file, the ranges of all of them."""
    found: list[tuple[str, int, int]] = []
    for file, ranges in lacking.items():
        edges = sorted({edge for held in keepers.get(file, ()) for edge in held})
        for begin, end in ranges:
            cuts = [begin, *(edge for edge in edges if begin < edge < end), end]
            found += [
                (file, at, min(at + CHUNK_BYTES, upper))
                for lower, upper in pairwise(cuts)
                for at in range(lower, upper, CHUNK_BYTES)
            ]
    return found


def _unwritten(path: Path, error: OSError) -> ModelError:
    return ModelError(
        f"{path} cannot be written: {error.strerror}; free some of that disk, or set "
        "POMONA_MODELS_DIR to a folder on another one"
    )


def _begun(source: str, keeper: RemoteSource) -> Path:
    manifest = wanted_of(source, keeper.manifest(source))
    parent = models_dir()
    parent.mkdir(parents=True, exist_ok=True)
    exact = manifest.source if is_hub_id(source) else f"{source}@{manifest.version}"
    final = parent / folder_name(exact)
    if not (final / _MANIFEST).is_file():
        folder = Path(tempfile.mkdtemp(prefix=".begun-", dir=parent))
        try:
            begin_files(folder, manifest, keeper, _note_first)
            (folder / _MANIFEST).write_bytes(orjson.dumps(asdict(manifest)))
            try:
                folder.rename(final)
            except OSError:  # another process was first
                if not (final / _MANIFEST).is_file():
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if exact != source:
        temporary = _pin(source).with_suffix(f".{os.getpid()}")
        temporary.write_text(final.name)
        temporary.replace(_pin(source))
    return final


def _pin(source: str) -> Path:
    """The file that tells which copy ``source`` means on this machine."""
    return models_dir() / f"{folder_name(source)}.pin"


def _pinned(source: str) -> Path | None:
    try:
        return models_dir() / Path(_pin(source).read_text()).name
    except OSError:
        return None


def _beside(file: Path, kind: str) -> Path:
    """A hidden file of Pomona's own beside a weight file."""
    return file.with_name(f".{file.name}.{kind}")


def _note_first(file: Path, here: Range) -> None:
    _beside(file, "held").write_bytes(orjson.dumps([here]))


def _merged(ranges: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for begin, end in sorted(ranges):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _without(ranges: Iterable[Range], held: Iterable[Range]) -> list[Range]:
    """The parts of ``ranges`` that no range of ``held``, sorted and apart, covers."""
    left: list[Range] = []
    for begin, end in ranges:
        at = begin
        for from_, to in held:
            if to <= at or from_ >= end:
                continue
            if from_ > at:
                left.append((at, from_))
            at = max(at, to)
        if at < end:
            left.append((at, end))
    return left
