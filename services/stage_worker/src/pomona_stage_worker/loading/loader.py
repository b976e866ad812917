"""Reads one stage's tensors into memory, and builds the stage from them.

These are two steps because an unevaluated MLX array belongs to the thread that made it: a loader
thread reads and evaluates for minutes, then the step thread assembles the stage at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from pomona.errors import ModelError
from pomona.messages.control import GroupStatus
from pomona.models import resolve
from pomona.models.store.remote_source import RemoteSource
from pomona_stage_worker.hardware.cpu_blocked_linear import SUFFIX, replace_layers
from pomona_stage_worker.hardware.cpu_float32 import on_metal
from pomona_stage_worker.hardware.cpu_matrix_layout import (
    in_fastest_layout,
    loaded_parts,
    transposed_parameters,
)
from pomona_stage_worker.loading.fetch import Progress, fetch, managed_copy
from pomona_stage_worker.loading.folder_weights import FolderWeights, LazyModel
from pomona_stage_worker.loading.gguf_weights import GgufWeights
from pomona_stage_worker.sharding.legality import check_shardable
from pomona_stage_worker.sharding.shard import Group, shard_model
from pomona_stage_worker.slicing import StageModel, owned_parameters, slice_model

log = logging.getLogger(__name__)

BUFFER_CACHE_FRACTION = 1 / 20
"""Size of MLX's buffer cache while a stage is loaded, as a fraction of the stage's bytes."""
WHOLE_FRACTION = 1 / 20
"""Matrices that are whole while a rank's part is loaded, as a fraction of the part."""


@dataclass(slots=True)
class StageWeights:
    """Weights of layers ``[start, stop)`` in memory.

    Attributes:
        make_model: builds the whole mlx-lm model with lazy weights.
        arrays: the owned parameters by name, evaluated.
        model: the stage that was built from them; only the step thread may use it.
    """

    source: str
    start: int
    stop: int
    make_model: Callable[[], nn.Module]
    arrays: dict[str, mx.array]
    model: StageModel | None = None

    @property
    def layers(self) -> tuple[str, int, int]:
        """The model's source, and its layers ``[start, stop)``."""
        return self.source, self.start, self.stop

    @property
    def nbytes(self) -> int:
        return sum(int(array.nbytes) for array in self.arrays.values())

    def group(self, worker: str, usable_bytes: int) -> GroupStatus | None:
        """Returns the ranks that hold the weights; None when this process does.

        Args:
            worker: name of this stage worker.
            usable_bytes: memory that it may use.
        """
        return None

    def surrender(self, source: str) -> dict[str, mx.array]:
        """Empties these weights. Returns the arrays if they are of ``source``; else frees them."""
        arrays = dict(self.arrays) if self.source == source else {}
        self.arrays.clear()
        self.model = None
        return arrays


def read_weights(
    source: str,
    start: int,
    stop: int,
    progress: Progress,
    have: StageWeights | None = None,
    peers: Sequence[RemoteSource] = (),
    *,
    cpu_layout: bool = False,
    group: Group | None = None,
) -> StageWeights:
    """Reads the parameters of layers ``[start, stop)`` of the model at ``source``.

    Missing files are fetched from ``peers``, then from the hub. Without Metal all weights become
    float32, since MLX has no fast CPU kernels for other types.

    Args:
        progress: receives bytes loaded, or bytes fetched while fetching.
        have: weights already in memory. Those of the same layers are returned as they are. Others
            are emptied: those that the new range also has are reused, the rest freed before
            anything is read.
        cpu_layout: store each matrix in the memory layout that this CPU multiplies fastest; not
            with ``group``.
        group: keep only this rank's part of each matrix. Its tensors are read one after another.

    Raises:
        ModelError: a file or tensor cannot be read; the message names it.
    """
    if have is not None and have.arrays and have.layers == (source, start, stop):
        progress(have.nbytes, have.nbytes)
        return have
    held = have.surrender(source) if have is not None else {}
    try:
        path = resolve(source, peers)
        reader_class = _FolderReader if path.is_dir() else _GgufReader
        reader = reader_class(source, path, peers, cpu_layout and group is None, group)
        arrays = reader.read(start, stop, progress, held)
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"{source} cannot be loaded: {error}") from error
    if not on_metal():
        log.info(
            "layers [%d, %d) are converted to float32: this machine has no Metal", start, stop,
            extra={"source": source},
        )  # fmt: skip
    return StageWeights(source, start, stop, reader.make_model, arrays)


def fetch_for_ranks(
    source: str,
    start: int,
    stop: int,
    progress: Progress,
    peers: Sequence[RemoteSource],
    size: int,
) -> None:
    """Fetches what ``size`` ranks need of layers ``[start, stop)``, before they are started.

    Raises:
        ShardingError: the model cannot be split over so many ranks; only headers were fetched.
        ModelError: a file or tensor cannot be read.
    """
    try:
        path = resolve(source, peers)
        reader_class = _FolderReader if path.is_dir() else _GgufReader
        reader = reader_class(source, path, peers, False, None)
        check_shardable(reader.make_model, size)
        reader.fetch(start, stop, progress)
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"{source} cannot be loaded: {error}") from error


def assemble(weights: StageWeights) -> StageModel:
    """Builds the stage, or returns the one that was built from these weights before.

    Only the calling thread may run it.
    """
    if weights.model is not None:
        return weights.model
    model = weights.make_model()
    blocked = {name: x for name, x in weights.arrays.items() if name.endswith(SUFFIX)}
    plain = [(name, x) for name, x in weights.arrays.items() if name not in blocked]
    model.load_weights(plain, strict=False)
    _drop_files(model, weights.arrays)
    replace_layers(model, blocked)
    weights.model = slice_model(model, weights.start, weights.stop)
    return weights.model


def _drop_files(model: nn.Module, arrays: Mapping[str, mx.array]) -> None:
    """Replaces other stages' lazy parameters, each of which keeps its weight file open, by zeros
    that are never evaluated. Their shapes and dtypes stay, for tracing."""
    foreign = [
        (name, mx.zeros(array.shape, dtype=array.dtype))
        for name, array in _parameters(model).items()
        if name not in arrays
    ]
    model.load_weights(foreign, strict=False)


def _parameters(model: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))  # type: ignore[arg-type]  # pairs, as asked


def _owned(model: Any, start: int, stop: int) -> set[str]:
    layer_count = len(model.layers)
    if not 0 <= start < stop <= layer_count:
        raise ModelError(
            f"layers [{start}, {stop}) are not a valid range of a model of {layer_count} layers"
        )
    return owned_parameters(model, start, stop)


class _FolderReader:
    """Evaluates one parameter after another, the largest first.

    Evaluation holds a parameter and its source tensors at once; memory is emptiest at the start.
    """

    def __init__(
        self,
        source: str,
        path: Path,
        peers: Sequence[RemoteSource],
        cpu_layout: bool,
        group: Group | None,
    ) -> None:
        self._copy = managed_copy(source, path)
        self._peers = peers
        self._cpu_layout = cpu_layout
        self._group = group
        self._weights = FolderWeights(path)

    def make_model(self) -> nn.Module:
        return _sharded(self._weights.make_model().model, self._group)

    def read(
        self, start: int, stop: int, progress: Progress, held: dict[str, mx.array]
    ) -> dict[str, mx.array]:
        lazy = self._weights.make_model()
        model = lazy.model
        owned = _owned(model, start, stop)
        _free_foreign(held, owned)
        _sharded(model, self._group)
        wanted = {name: x for name, x in _parameters(model).items() if name in owned}
        sizes = {name: int(array.nbytes) for name, array in wanted.items()}
        total, done = sum(sizes.values()), 0
        arrays: dict[str, mx.array] = {}
        # No list of them may stay: an array that is referenced keeps what it read.
        self._fetch(lazy, [x for n, x in wanted.items() if not loaded_parts(held, n)], progress)
        transposed = transposed_parameters(model) if self._cpu_layout else {}
        del model, lazy
        for name in _largest_first(sizes):
            progress(done, total)
            array = wanted.pop(name)
            parts = loaded_parts(held, name)
            try:
                if not parts and name in transposed:
                    parts = in_fastest_layout(name, array, transposed[name])
                parts = parts or {name: array}
                mx.eval(parts)
            except (RuntimeError, ValueError) as error:
                raise ModelError(f"{self._place_of(name)} cannot be read: {error}") from error
            arrays.update(parts)
            del array, parts
            done += sizes[name]
            _trim_buffer_cache(total)
        progress(done, total)
        return arrays

    def fetch(self, start: int, stop: int, progress: Progress) -> None:
        """Fetches the tensors of layers ``[start, stop)`` that are not on this machine."""
        lazy = self._weights.make_model()
        owned = _owned(lazy.model, start, stop)
        arrays = [x for name, x in _parameters(lazy.model).items() if name in owned]
        self._fetch(lazy, arrays, progress)

    def _fetch(self, lazy: LazyModel, parameters: Sequence[mx.array], progress: Progress) -> None:
        if self._copy is not None:
            tensors = self._weights.tensors_of(lazy, parameters)
            places = [self._weights.places[tensor] for tensor in tensors]
            fetch(self._copy, places, self._peers, progress)

    def _place_of(self, parameter: str) -> str:
        lazy = self._weights.make_model()
        array = _parameters(_sharded(lazy.model, self._group))[parameter]
        return self._weights.where(self._weights.tensors_of(lazy, [array])) or parameter


class _GgufReader:
    """Converts one module after another, the largest first."""

    def __init__(
        self,
        source: str,
        path: Path,
        peers: Sequence[RemoteSource],
        cpu_layout: bool,
        group: Group | None,
    ) -> None:
        self._copy = managed_copy(source, path)
        self._peers = peers
        self._cpu_layout = cpu_layout
        self._group = group
        self._weights = GgufWeights(path)

    def make_model(self) -> nn.Module:
        return _sharded(self._weights.make_model(), self._group)

    def read(
        self, start: int, stop: int, progress: Progress, held: dict[str, mx.array]
    ) -> dict[str, mx.array]:
        self._fetch((), progress)
        model = self._weights.make_model()
        owned = _owned(model, start, stop)
        _free_foreign(held, owned)
        sizes = {n: int(x.nbytes) for n, x in _parameters(model).items() if n in owned}
        transposed = transposed_parameters(model) if self._cpu_layout else {}
        del model
        self._fetch({name for name in sizes if not loaded_parts(held, name)}, progress)
        if self._group is not None:
            return self._read_parts(sizes, self._group, progress)
        total, done = sum(sizes.values()), 0
        arrays: dict[str, mx.array] = {}
        for name in _largest_first(sizes):
            progress(done, total)
            if name not in arrays:
                parts = loaded_parts(held, name)
                if not parts:
                    parts = self._weights.parameters(name)
                    if name in transposed:
                        parts = in_fastest_layout(name, parts[name], transposed[name])
                mx.eval(parts)
                arrays.update(parts)
                del parts
            done += sizes[name]
            _trim_buffer_cache(total)
        progress(done, total)
        self._weights.log_conversions()
        return arrays

    def fetch(self, start: int, stop: int, progress: Progress) -> None:
        """Fetches the tensors of layers ``[start, stop)`` that are not on this machine."""
        self._fetch((), progress)
        self._fetch(_owned(self._weights.make_model(), start, stop), progress)

    def _read_parts(
        self, sizes: Mapping[str, int], group: Group, progress: Progress
    ) -> dict[str, mx.array]:
        """Reads a few matrices after another, and keeps this rank's parts."""
        total, done = sum(sizes.values()), 0
        arrays: dict[str, mx.array] = {}
        for names in _batches(sizes, int(total / group.size() * WHOLE_FRACTION)):
            progress(done // group.size(), total // group.size())
            whole: dict[str, mx.array] = {}
            for name in names:
                if name not in whole:
                    whole |= self._weights.parameters(name)
            model = self._weights.make_model()
            model.load_weights(list(whole.items()), strict=False)
            del whole
            parameters = _parameters(_sharded(model, group))
            parts = {name: parameters[name] for name in names}
            del model, parameters
            mx.eval(parts)
            arrays.update(parts)
            done += sum(sizes[name] for name in names)
            _trim_buffer_cache(total)
        progress(total // group.size(), total // group.size())
        self._weights.log_conversions()
        return arrays

    def _fetch(self, parameters: Iterable[str], progress: Progress) -> None:
        if self._copy is not None:
            fetch(self._copy, self._weights.places(parameters), self._peers, progress)


def _sharded(model: nn.Module, group: Group | None) -> nn.Module:
    return model if group is None else shard_model(model, group)


def _batches(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Groups parameters to at most ``limit`` bytes where possible; those of a module together."""
    modules: dict[str, list[str]] = {}
    for name in sizes:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    batches: list[list[str]] = []
    left = 0
    for names in modules.values():
        size = sum(sizes[name] for name in names)
        if size > left:
            batches.append([])
            left = limit
        batches[-1] += names
        left -= size
    return batches


def _free_foreign(held: dict[str, mx.array], owned: Set[str]) -> None:
    """Frees the weights that the new range lacks, so that two shares are never in memory."""
    kept = {known for name in owned for known in loaded_parts(held, name)}
    for name in held.keys() - kept:
        del held[name]
    mx.synchronize()
    mx.clear_cache()


def _largest_first(sizes: Mapping[str, int]) -> list[str]:
    """Sorts parameters of at least an eighth of the total by size; keeps the order of the rest."""
    large = sum(sizes.values()) // 8
    return sorted(sizes, key=lambda name: -sizes[name] if sizes[name] >= large else 0)


def _trim_buffer_cache(total: int) -> None:
    """Frees MLX's buffer cache when it is large relative to the ``total`` bytes being loaded."""
    if mx.get_cache_memory() > total * BUFFER_CACHE_FRACTION:
        mx.clear_cache()
