"""How matrices lie in memory where MLX multiplies through BLAS: on machines without Metal.

A layer's product is ``x @ weight.T``, and for the few rows of a decoding step it takes as long
as reading the weight does. BLAS first copies the weight into panels of several outputs each.
Which order it copies faster depends on its kernels, the processor's caches and the matrix: with
the outputs of one input side by side it copies vectors, but where those rows lie a multiple of
64 KiB apart they drive each other out of the cache. So both are tried, once for each shape. The
sums are the same to the last bit.
"""

from __future__ import annotations

import time
from collections.abc import Set

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchLinear

from pomona_stage_worker.loading.precision import on_metal

TRIES = 3

_adjacent_is_faster: dict[tuple[int, ...], bool] = {}
"""By shape, (outputs, inputs)."""


def multiplied(model: nn.Module) -> Set[str]:
    """The parameters, by name, that a product takes transposed; none where that costs nothing.

    An embedding is one of them: most models draw from the same matrix that they look up in.
    """
    if on_metal():
        return frozenset()
    kinds = (nn.Linear, nn.Embedding, SwitchLinear)
    return {f"{name}.weight" for name, x in model.named_modules() if isinstance(x, kinds)}


def as_read_fastest(weight: mx.array) -> mx.array:
    """The same matrices, shape (..., outputs, inputs), evaluated, in the faster order."""
    shape = weight.shape[-2:]
    known = _adjacent_is_faster.get(shape)
    mx.eval(weight)
    if known is False:
        return weight
    adjacent = outputs_adjacent(weight)
    mx.eval(adjacent)
    if known is None:
        known = product_seconds(adjacent) < product_seconds(weight)
        _adjacent_is_faster[shape] = known
    return adjacent if known else weight


def outputs_adjacent(weight: mx.array) -> mx.array:
    """The same matrices, lazily; in memory the outputs of an input lie side by side."""
    return mx.contiguous(weight.swapaxes(-1, -2)).swapaxes(-1, -2)


def product_seconds(weight: mx.array) -> float:
    """Of the product of one row with a matrix, the first of several: the quickest try."""
    matrix = weight[(0,) * (weight.ndim - 2)] if weight.ndim > 2 else weight
    row = mx.ones((1, matrix.shape[1]), dtype=matrix.dtype)
    mx.eval(matrix, row)
    best = float("inf")
    for _ in range(TRIES):
        begin = time.perf_counter()
        mx.eval(row @ matrix.T)
        best = min(best, time.perf_counter() - begin)
    return best
