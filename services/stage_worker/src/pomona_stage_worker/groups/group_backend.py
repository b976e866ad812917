"""A compute backend whose stages are held by groups of rank processes on this machine."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import mlx.nn as nn
import psutil

from pomona.errors import ModelError
from pomona.messages.control import GroupStatus, Pipeline, RankStatus
from pomona.models.store.remote_source import RemoteSource
from pomona_stage_worker.compute_backend import ComputeBackend
from pomona_stage_worker.groups.rank_children import RankChildren
from pomona_stage_worker.groups.rank_group import RankGroup, load_group
from pomona_stage_worker.groups.rank_messages import Load
from pomona_stage_worker.hardware.device import this_device
from pomona_stage_worker.hardware.process_memory import ProcessMemory
from pomona_stage_worker.loading import Progress, StageWeights
from pomona_stage_worker.loading.loader import fetch_for_ranks
from pomona_stage_worker.model.mlx_stage import Stage

WARMUP_CHUNK: Final = 16
"""Tokens of a rank's warm-up chunk."""


class GroupWeights(StageWeights):
    """Weights in the memory of rank processes, which end with this object."""

    def __init__(self, load: Load, children: RankChildren, held: Sequence[int]) -> None:
        super().__init__(load.source, load.start, load.stop, _no_model, {})
        self.children = children
        self._load = load
        self._held = tuple(held)
        self._close = weakref.finalize(self, children.close)

    @property
    def nbytes(self) -> int:
        return sum(self._held)

    def group(self, worker: str, usable_bytes: int) -> GroupStatus:
        """Returns the ranks, which share the memory of this machine."""
        share = usable_bytes // self.children.size
        ranks = tuple(
            RankStatus(worker, pid, held, share)
            for pid, held in zip(self.children.pids, self._held, strict=True)
        )
        return GroupStatus(self._load.backend, ranks, share * len(ranks))

    def surrender(self, source: str) -> dict[str, object]:  # type: ignore[override]  # nothing is handed over
        """Ends the ranks; nothing of them can be used again."""
        self._close()
        return {}


def grouped(backend: ComputeBackend, size: int) -> ComputeBackend:
    """Returns the backend with every stage split over ``size`` rank processes.

    A model that cannot be split is refused before anything is loaded.
    """

    groups: weakref.WeakSet[RankChildren] = weakref.WeakSet()

    def memory() -> ProcessMemory:
        own = backend.process_memory()
        ranks = sum(_resident(pid) for group in groups for pid in group.pids)
        return replace(own, resident=own.resident + ranks, footprint=own.footprint + ranks)

    def read(
        source: str,
        start: int,
        stop: int,
        progress: Progress,
        have: StageWeights | None,
        peers: Sequence[RemoteSource],
    ) -> StageWeights:
        if isinstance(have, GroupWeights):
            if have.children.failure is None and have.layers == (source, start, stop):
                progress(have.nbytes, have.nbytes)
                return have
            have.surrender(source)
        fetch_for_ranks(source, start, stop, progress, peers, size)
        load = Load(source, start, stop, spins=this_device().kind != "cpu")
        children = RankChildren(size)
        groups.add(children)
        try:
            held = load_group(children, load, progress)
        except BaseException:
            children.close()
            raise
        return GroupWeights(load, children, held)

    def make(weights: StageWeights, pipeline: Pipeline) -> Stage:
        if not isinstance(weights, GroupWeights):
            raise ModelError("these weights are not those of a group")
        is_tail = weights.stop == pipeline.layer_count
        return RankGroup(weights.children, pipeline, is_tail, WARMUP_CHUNK)

    return replace(backend, read=read, assemble=make, process_memory=memory)


def _resident(pid: int) -> int:
    """Returns the resident bytes of a process; 0 when it has ended."""
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def _no_model() -> nn.Module:
    raise ModelError("the weights of a group are in its rank processes")
