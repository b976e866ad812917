"""Fills the holes of a copy that a stage needs, from peers before the hub."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from pomona.models.formats.safetensors_index import TensorPlace
from pomona.models.store.hub_id import is_hub_id
from pomona.models.store.hub_source import HubSource
from pomona.models.store.remote_source import RemoteSource
from pomona.models.store.sparse_copy import SparseCopy, split_ranges
from pomona_stage_worker.loading.progress import Progress

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Pieces that are fetched at once."""


def copy_at(source: str, path: Path) -> SparseCopy | None:
    """The copy whose folder or file ``path`` is; None for one of the operator's own.

    What the hub's client already has in its cache is taken from there.
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
    """Bring these tensors to this machine. What came stays, also when something fails: the
    next attempt goes on from there.

    Raises ModelError saying what each keeper answered.
    """
    lacking = copy.missing_ranges(places)
    if not lacking:
        return
    keepers = [*peers, *([HubSource()] if is_hub_id(copy.manifest.source) else [])]
    held = {
        file: [x for keeper in keepers for x in keeper.held_ranges(copy.manifest, file)]
        for file in lacking
    }
    wanted = split_ranges(lacking, held)
    total, done = sum(end - begin for _, begin, end in wanted), 0
    by_keeper: Counter[str] = Counter()
    progress(0, total, fetching=True)
    executor = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch")
    try:
        running = {
            executor.submit(copy.fetch, file, begin, end, keepers): end - begin
            for file, begin, end in wanted
        }
        for finished in as_completed(running):
            by_keeper[finished.result()] += running[finished]
            done += running[finished]
            progress(done, total, fetching=True)
    finally:
        executor.shutdown(cancel_futures=True)
    log.info(
        "fetched %d MB: %s", total >> 20,
        ", ".join(f"{size >> 20} MB from {name}" for name, size in by_keeper.most_common()),
        extra={"source": copy.manifest.source},
    )  # fmt: skip
