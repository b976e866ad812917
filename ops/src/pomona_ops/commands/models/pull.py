"""``pomona models pull``: downloads all files of a model to this machine."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pomona.errors import ConfigurationError, ModelError
from pomona.models.store.hub_id import is_hub_id
from pomona.models.store.hub_source import HubSource
from pomona.models.store.sparse_copy import SparseCopy, split_ranges

CONCURRENT_PIECES = 4
_BLOCK = 8 << 20


def pull_model(source: str, console: Console, quiet: bool) -> dict[str, Any]:
    """Downloads missing split_ranges, then checks every file for which the hub has a hash.

    An interrupted download resumes at the next call. Raises ModelError, and ConfigurationError
    when ``source`` is not a hub id.
    """
    if not is_hub_id(source) or Path(source).exists():
        raise ConfigurationError(f"{source} is not a Hugging Face id, such as owner/name")
    hub = HubSource()
    copy = _newest(source, hub)
    files = copy.weight_files()
    for file in files:
        cached = hub.cached(copy.manifest, file)
        if cached is not None:
            copy.link_file(file, cached)
    lacking = {file: ranges for file in files if (ranges := copy.missing_in_file(file))}
    wanted = split_ranges(lacking, {})
    _fetch(copy, hub, wanted, Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        console=console, disable=quiet,
    ))  # fmt: skip
    for file in lacking:
        _check(copy, file)
    size = sum(copy.manifest.files[file].size for file in files)
    fetched = sum(end - begin for _, begin, end in wanted)
    return {
        "model": source,
        "version": copy.manifest.version,
        "path": str(copy.path),
        "bytes": size,
        "fetched_bytes": fetched,
    }


def _newest(source: str, hub: HubSource) -> SparseCopy:
    """Returns a copy of the hub's newest version; the local one when the hub is unreachable."""
    try:
        return SparseCopy.create(source, [hub])
    except ModelError:
        copy = SparseCopy.find(source)
        if copy is None:
            raise
        return copy


def _fetch(
    copy: SparseCopy, hub: HubSource, wanted: list[tuple[str, int, int]], progress: Progress
) -> None:
    total = sum(end - begin for _, begin, end in wanted)
    executor = ThreadPoolExecutor(CONCURRENT_PIECES, thread_name_prefix="pull")
    with progress:
        task = progress.add_task(copy.manifest.source, total=total)
        try:
            running = {
                executor.submit(copy.fetch, file, begin, end, [hub]): end - begin
                for file, begin, end in wanted
            }
            for finished in as_completed(running):
                finished.result()
                progress.advance(task, running[finished])
        finally:
            executor.shutdown(cancel_futures=True)


def _check(copy: SparseCopy, file: str) -> None:
    expected = copy.manifest.files[file].sha256
    if not expected:
        return
    digest = hashlib.sha256()
    with (copy.folder / file).open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected:
        copy.mark_not_fetched(file)
        raise ModelError(
            f"{copy.folder / file} does not match the hash of the hub; it was removed, pull again"
        )
