"""Fetches the tensors of a stage that are not on disk, from peers and then from the hub."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

from pomona.models.formats.safetensors_index import TensorPlace
from pomona.models.store.hub_id import is_hub_id
from pomona.models.store.hub_source import HubSource
from pomona.models.store.remote_source import RemoteSource
from pomona.models.store.sparse_copy import SparseCopy, split_ranges

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
    sources = [*peers, *([HubSource()] if is_hub_id(copy.manifest.source) else [])]
    held = {
        file: [x for remote in sources for x in remote.held_ranges(copy.manifest, file)]
        for file in missing
    }
    wanted = split_ranges(missing, held)
    total, done = sum(end - begin for _, begin, end in wanted), 0
    by_source: Counter[str] = Counter()
    progress(0, total, fetching=True)
    executor = ThreadPoolExecutor(PARALLEL_FETCHES, thread_name_prefix="fetch")
    try:
        running = {
            executor.submit(copy.fetch, file, begin, end, sources): end - begin
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
