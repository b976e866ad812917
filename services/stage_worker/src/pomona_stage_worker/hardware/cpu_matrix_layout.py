"""Memory layout of weight matrices where MLX multiplies through BLAS: on CPUs.

A layer computes ``x @ weight.T``. For the few rows of a decode step this takes as long as BLAS
needs to copy the weight, unless it can avoid the copy. The fastest layout depends on the BLAS
kernels, the processor's caches and the matrix:

- with the outputs of one input adjacent, BLAS copies vectors instead of single numbers, but rows
  a multiple of 64 KiB apart evict each other from the cache;
- small blocks need no copy if BLAS has kernels for small products.

Each shape is therefore timed once in every layout, and the choice is kept in a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchLinear

from pomona_stage_worker.hardware.cpu_blocked_linear import OUTPUTS, SUFFIX, in_blocks, multiply
from pomona_stage_worker.hardware.layout_file import LayoutFile

TRIES = 2
LANE_ROWS = 1, 4
"""Row counts to time: the most frequent ones of decode steps."""
COLD_BYTES = 24 << 20
"""Bytes of matrices per timing: more than a processor's own caches hold."""
CLEARLY_FASTER = 0.95
"""Largest share of the simpler layout's time at which another layout replaces it."""
WEIGHT = ".weight"
MIN_TIMED_BYTES = 1 << 17
"""Smaller matrices keep the stored layout: they stay in the processor's caches, and their timings
are noise."""

Layout: TypeAlias = Callable[[mx.array], mx.array]

_fastest: dict[tuple[int | bool, ...], Layout] = {}
"""Fastest layout by shape and by whether blocks are allowed."""
_files: list[LayoutFile] = []
"""The file in which they are kept, or none."""


def keep_layouts_in(file: LayoutFile) -> None:
    """Uses the layouts in a file, and adds those that are timed from now on."""
    _files[:] = [file]
    _fastest.clear()


def as_stored(weight: mx.array) -> mx.array:
    """Keeps the inputs of an output adjacent."""
    return weight


def outputs_adjacent(weight: mx.array) -> mx.array:
    """Makes the outputs of an input adjacent in memory, lazily; the shape stays the same."""
    return mx.contiguous(weight.swapaxes(-1, -2)).swapaxes(-1, -2)


def transposed_parameters(model: nn.Module) -> Mapping[str, bool]:
    """Returns the names of the parameters that a product takes transposed.

    The value is True if blocks are allowed, since the layer's class can be replaced. Embeddings
    count, because most models also use them as the vocabulary head.
    """
    kinds = (nn.Linear, nn.Embedding, SwitchLinear)
    return {
        f"{name}{WEIGHT}": type(layer) in (nn.Linear, nn.Embedding)
        for name, layer in model.named_modules()
        if isinstance(layer, kinds)
    }


def in_fastest_layout(name: str, weight: mx.array, may_block: bool) -> dict[str, mx.array]:
    """Returns the matrix, evaluated, in its fastest layout, under the name for that layout."""
    mx.eval(weight)
    matrix = weight[0] if weight.ndim == 3 else weight
    if matrix.nbytes < MIN_TIMED_BYTES:
        return {name: weight}
    key = (*weight.shape, may_block)
    if key not in _fastest:
        _fastest[key] = _choose(weight, matrix, may_block)
    laid_out = _fastest[key](weight)
    mx.eval(laid_out)
    is_blocked = _fastest[key] is in_blocks
    return {name.removesuffix(WEIGHT) + SUFFIX if is_blocked else name: laid_out}


def _choose(weight: mx.array, matrix: mx.array, may_block: bool) -> Layout:
    """Returns the layout of the file, or times each possible one."""
    possible = {layout.__name__: layout for layout in layouts(weight, may_block)}
    shape = f"{'x'.join(map(str, weight.shape))}{' blocks' if may_block else ''}"
    for file in _files:
        if known := possible.get(file.find(shape)):
            return known
    best = clearly_fastest({o: product_seconds(o, matrix, LANE_ROWS) for o in possible.values()})
    for file in _files:
        best = possible.get(file.add(shape, best.__name__), best)
    return best


def loaded_parts(arrays: Mapping[str, mx.array], name: str) -> dict[str, mx.array]:
    """Finds a parameter among loaded arrays in either layout; empty if it is not loaded."""
    names = (name, name.removesuffix(WEIGHT) + SUFFIX)
    return {known: arrays[known] for known in names if known in arrays}


def layouts(weight: mx.array, may_block: bool) -> list[Layout]:
    """Returns the possible layouts, the simplest first."""
    blocks = [in_blocks] if may_block and weight.shape[0] % OUTPUTS == 0 else []
    return [as_stored, outputs_adjacent, *blocks]


def clearly_fastest(seconds: Mapping[Layout, float]) -> Layout:
    """Picks from layouts in order of simplicity. A margin keeps noise from giving equal workers
    different layouts."""
    best = next(iter(seconds))
    for layout, took in seconds.items():
        if took < CLEARLY_FASTER * seconds[best]:
            best = layout
    return best


def product_seconds(layout: Layout, matrix: mx.array, rows: Sequence[int] = (1,)) -> float:
    """Times products of a matrix with inputs of ``rows`` rows, and returns the sum.

    Each timing is the fastest of several over enough copies of the matrix to leave the
    processor's caches, as in a model.
    """
    count = max(1, COLD_BYTES // matrix.nbytes)
    copies: list[mx.array] = []
    for _ in range(count):
        copies.append(layout(matrix + 0))
        mx.eval(copies[-1])
    total = 0.0
    for number in rows:
        x = mx.ones((number, 1, matrix.shape[1]), dtype=matrix.dtype)
        best = float("inf")
        for _ in range(TRIES):
            products = [multiply(x, m) if layout is in_blocks else x @ m.T for m in copies]
            started = time.perf_counter()
            mx.eval(products)
            best = min(best, time.perf_counter() - started)
        total += best / count
    return total
