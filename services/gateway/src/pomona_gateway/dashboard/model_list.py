"""The models that pages list: those of the cluster, those that the planner knows, and those on this
machine's disk."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pomona.cluster_report import ClusterReport
from pomona.errors import ModelError
from pomona.models import EMBEDDED_MODEL, model_name, read_facts
from pomona.models.store.hub_id import is_hub_id
from pomona.models.store.sparse_copy import local_copies

READ_INTERVAL_S = 10.0
PULL_INTERVAL_S = 1.0
"""Seconds between two looks at the disk; the second one while a model is pulled."""
PROMISED_TOKENS = 1024
"""Tokens of context whose KV cache ``needs_bytes`` includes, as the planner's default promises."""
CACHE_VALUE_BYTES = 2


@dataclass(frozen=True, slots=True)
class DiskModel:
    """A model on this machine's disk.

    Attributes:
        needs_bytes: weights, and the KV cache of ``PROMISED_TOKENS``; 0 when not readable.
        held_bytes, total_bytes: weights on the disk, and of the whole model; 0 when not known.
        reason: why its files cannot be read.
    """

    source: str
    needs_bytes: int = 0
    held_bytes: int = 0
    total_bytes: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model as a page shows it.

    Attributes:
        state: ``ready``, ``loading``, ``failed``, ``unloaded`` (known to the planner) or ``disk``
            (only on this machine's disk).
        needs_bytes: memory for weights and a short context; 0 when it is not known.
        held_bytes, total_bytes: weights on this machine's disk, and of the whole model.
        fits: ``now``, ``after unloading`` others, or ``no``; empty when it is not known.
        missing_bytes: memory that is missing if it does not fit.
        reason: why it is not ready.
        pull: ``running``, ``failed``, or empty.
        pull_reason: why the pull failed.
    """

    name: str
    source: str
    state: str
    needs_bytes: int = 0
    held_bytes: int = 0
    total_bytes: int = 0
    fits: str = ""
    missing_bytes: int = 0
    reason: str = ""
    pull: str = ""
    pull_reason: str = ""


class ModelList:
    """Keeps the list; reads the disk in a thread.

    Args:
        problem: returns why this gateway cannot read a model; empty when it can.
        pulls: returns the running and failed pulls: source and reason, empty while it runs.

    Attributes:
        entries: the models, sorted by name.
    """

    def __init__(
        self,
        problem: Callable[[str], str],
        pulls: Callable[[], dict[str, str | None]],
    ) -> None:
        self.entries: tuple[ModelEntry, ...] = ()
        self._problem = problem
        self._pulls = pulls
        self._disk: dict[str, DiskModel] = {}
        self._read_at = -READ_INTERVAL_S
        self._reading: asyncio.Task[None] | None = None

    def update(self, report: ClusterReport) -> None:
        """Computes the entries from a report, and starts to read the disk when that is due."""
        pulls = self._pulls()
        self.entries = tuple(model_entries(report, self._disk, pulls, self._problem))
        pulling = any(reason is None for reason in pulls.values())
        interval_s = PULL_INTERVAL_S if pulling else READ_INTERVAL_S
        is_free = self._reading is None or self._reading.done()
        if is_free and time.monotonic() - self._read_at >= interval_s:
            sources = {model.source for model in report.models}
            sources |= {pipeline.source for pipeline in report.pipelines}
            self._reading = asyncio.create_task(self._read(sources))

    async def close(self) -> None:
        """Waits for the thread."""
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, sources: set[str]) -> None:
        self._disk = await asyncio.to_thread(read_disk, sources, self._disk)
        self._read_at = time.monotonic()


def read_disk(sources: Iterable[str], known: dict[str, DiskModel]) -> dict[str, DiskModel]:
    """Reads what this machine's disk has: its copies of models, and of ``sources``.

    Reads nothing from a network. Sizes of a model in ``known`` are taken from there.
    """
    found: dict[str, DiskModel] = {}
    for copy in local_copies():
        source = copy.manifest.source
        try:
            held, total = copy.held_bytes()
        except (ModelError, OSError) as error:
            found[source] = DiskModel(source, reason=str(error))
            continue
        entry = known.get(source) or _with_facts(source, str(copy.path))
        found[source] = replace(entry, held_bytes=held, total_bytes=total)
    for source in {*sources, EMBEDDED_MODEL}:
        if source in found or (is_hub_id(source) and source != EMBEDDED_MODEL):
            continue
        if source == EMBEDDED_MODEL or Path(source).expanduser().exists():
            found[source] = known.get(source) or _with_facts(source, source)
    return found


def _with_facts(source: str, path: str) -> DiskModel:
    try:
        facts = read_facts(path)
    except ModelError as error:
        return DiskModel(source, reason=str(error))
    cache = facts.kv_values_per_token * CACHE_VALUE_BYTES * PROMISED_TOKENS
    return DiskModel(source, facts.stored_bytes + cache, facts.stored_bytes, facts.stored_bytes)


def model_entries(
    report: ClusterReport,
    disk: dict[str, DiskModel],
    pulls: dict[str, str | None],
    problem: Callable[[str], str],
) -> list[ModelEntry]:
    """Returns the models of a report and of a disk, sorted by name. Pure."""
    entries: dict[str, ModelEntry] = {}
    for pipeline in report.pipelines:
        on_disk = _on_disk(pipeline.source, disk)
        weights = sum(stage.total_bytes for stage in pipeline.stages)
        failed = [stage.error for stage in pipeline.stages if stage.state == "failed"]
        reason = problem(pipeline.model) or pipeline.reason or next(iter(failed), "")
        ready = pipeline.state == "active" and pipeline.proven
        state = "ready" if ready else "loading"
        if pipeline.state == "impossible" or failed:
            state = "failed"
        entries[pipeline.source] = ModelEntry(
            pipeline.model,
            pipeline.source,
            state,
            on_disk.needs_bytes or weights,
            on_disk.held_bytes,
            on_disk.total_bytes,
            fits="now" if state != "failed" else "",
            reason="" if ready else reason,
        )
    planned = {entry.name for entry in entries.values()}
    for model in report.models:
        if model.source not in entries and model.name not in planned:
            state = "loading" if model.loaded else "unloaded"
            entries[model.source] = _unplanned(model.name, model.source, state, report, disk)
    names = {entry.name for entry in entries.values()}
    for source in disk:
        name = model_name(source.partition("@")[0])
        if source not in entries and name not in names:
            entries[source] = _unplanned(name, source, "disk", report, disk)
    for source, reason in pulls.items():
        own = [x for x in entries.values() if x.source.partition("@")[0] == source]
        entry = own[0] if own else ModelEntry(source, source, "disk")
        pull = "running" if reason is None else "failed"
        entries[entry.source] = replace(entry, pull=pull, pull_reason=reason or "")
    return sorted(entries.values(), key=lambda entry: entry.name.lower())


def _on_disk(source: str, disk: dict[str, DiskModel]) -> DiskModel:
    """Returns the entry of a source. A copy's source may name its version after an ``@``."""
    same = (x for x in disk.values() if x.source.partition("@")[0] == source.partition("@")[0])
    return disk.get(source) or next(same, DiskModel(source))


def _unplanned(
    name: str, source: str, state: str, report: ClusterReport, disk: dict[str, DiskModel]
) -> ModelEntry:
    on_disk = _on_disk(source, disk)
    usable, free = _memory(report)
    needs, fits = on_disk.needs_bytes, ""
    if needs and usable:
        fits = "now" if needs <= free else "after unloading" if needs <= usable else "no"
    return ModelEntry(
        name,
        source,
        state,
        needs,
        on_disk.held_bytes,
        on_disk.total_bytes,
        fits,
        max(0, needs - usable) if fits == "no" else 0,
        on_disk.reason,
    )


def _memory(report: ClusterReport) -> tuple[int, int]:
    """Returns the usable bytes of all machines, and those that hold no weights.

    Workers of one machine share its memory, and each reports all of it.
    """
    usable: dict[str, int] = {}
    weights: Counter[str] = Counter()
    for worker in report.workers:
        usable[worker.node] = max(usable.get(worker.node, 0), worker.usable_bytes)
        weights[worker.node] += worker.weight_bytes
    free = (max(0, total - weights[node]) for node, total in usable.items())
    return sum(usable.values()), sum(free)
