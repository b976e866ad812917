"""Fetches the tensors of a stage that are not on disk, from peers and then from the hub."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

from pomona.errors import ModelError
from pomona.models.formats.safetensors_index import TensorPlace
from pomona.models.store.checked_source import last_resorts, plan_digests
from pomona.models.store.hub_id import is_hub_id
from pomona.models.store.hub_source import HubSource
from pomona.models.store.remote_source import Manifest, Range, RemoteSource
from pomona.models.store.sparse_copy import CHUNK_BYTES, SparseCopy, split_ranges
from pomona.models.store.weight_digests import split_by_segments

log = logging.getLogger(__name__)

PARALLEL_FETCHES = 4


class Progress(Protocol):
    """Receives the progress of loading a stage."""

    def __call__(self, done: int, total: int, fetching: bool = False) -> None:
        """``done`` of ``total`` bytes are in memory, or on disk while ``fetching``."""


def managed_copy(source: str, path: Path) -> SparseCopy | None:
    """Returns the managed copy stored at ``path``; None for a folder or file of the operator.

    Weight files in the hub client's cache are linked into the copy.
    """
    copy = SparseCopy.find(source)
    if copy is None or copy.path != path:
        return None
    if is_hub_id(source):
        hub = HubSource()
        for file in copy.weight_files():
            cached = None if (copy.folder / file).is_symlink() else hub.cached(copy.manifest, file)
            if cached is not None:
                copy.link_file(file, cached)
    return copy


def fetch(
    copy: SparseCopy,
    places: Iterable[TensorPlace],
    peers: Sequence[RemoteSource],
    progress: Progress,
) -> None:
    """Fetches the tensors at ``places``. A failed fetch keeps its pieces; the next one resumes.

    Raises:
        ModelError: no source has a piece; the message gives each source's answer.
    """
    missing = copy.missing_ranges(places)
    if not missing:
        return
    hub = [_HubUntilItFails()] if is_hub_id(copy.manifest.source) else []
    sources = [*peers, *hub, *last_resorts(peers)]
    held_by = {
        file: [remote.held_ranges(copy.manifest, file) for remote in sources] for file in missing
    }
    held = {file: [x for ranges in by for x in ranges] for file, by in held_by.items()}
    wanted = _pieces(copy, missing, held, peers)

    def holders_first(file: str, begin: int, end: int) -> list[RemoteSource]:
        has = [any(a <= begin and end <= b for a, b in ranges) for ranges in held_by[file]]
        return [sources[n] for n in sorted(range(len(sources)), key=lambda n: not has[n])]

    total, done = sum(end - begin for _, begin, end in wanted), 0
    by_source: Counter[str] = Counter()
    progress(0, total, fetching=True)
    executor = ThreadPoolExecutor(PARALLEL_FETCHES, thread_name_prefix="fetch")
    try:
        running = {
            executor.submit(copy.fetch, file, begin, end, holders_first(file, begin, end)): end
            - begin
            for file, begin, end in wanted
        }
        for finished in as_completed(running):
            by_source[finished.result()] += running[finished]
            done += running[finished]
            progress(done, total, fetching=True)
    finally:
        executor.shutdown(cancel_futures=True)
    log.info(
        "fetched %d MB: %s", total >> 20,
        ", ".join(f"{size >> 20} MB from {name}" for name, size in by_source.most_common()),
        extra={"source": copy.manifest.source},
    )  # fmt: skip


class _HubUntilItFails(HubSource):
    """Asks the hub until it fails once, since each attempt may take a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._failure = ""

    def read(self, manifest: Manifest, file: str, begin: int, end: int) -> bytes:
        if self._failure:
            raise ModelError(self._failure)
        try:
            return super().read(manifest, file, begin, end)
        except ModelError as error:
            self._failure = str(error)
            raise


def _pieces(
    copy: SparseCopy,
    missing: Mapping[str, Sequence[Range]],
    held: Mapping[str, Sequence[Range]],
    peers: Sequence[RemoteSource],
) -> list[tuple[str, int, int]]:
    """Splits missing ranges into pieces that one source can serve and the plan's digests check."""
    digests = plan_digests(peers)
    table = digests.table() if digests is not None else None
    if table is None or table.version != copy.manifest.version:
        return split_ranges(missing, held)
    found: list[tuple[str, int, int]] = []
    for file, ranges in missing.items():
        known = table.files.get(file)
        if known is None:
            found += split_ranges({file: ranges}, held)
            continue
        edges = {edge for span in held.get(file, ()) for edge in span}
        pieces, rest = split_by_segments(known, ranges, edges, CHUNK_BYTES)
        found += [(file, begin, end) for begin, end in pieces]
        found += split_ranges({file: rest}, held)
    return found
