"""How matrices lie in memory where MLX multiplies through BLAS: on machines without Metal.

A layer's product is ``x @ weight.T``, and for the few rows of a decoding step it takes as long
as BLAS needs to copy the weight, unless it can do without. Which order is fastest depends on its
kernels, the processor's caches and the matrix: with the outputs of one input side by side it
copies vectors, not single numbers, but where those rows lie a multiple of 64 KiB apart they drive
each other out of the cache; blocks of a few outputs need no copy, where BLAS has kernels for
small products. So all are tried, once for each shape that is worth it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchLinear

from pomona_stage_worker.hardware.cpu_blocked_linear import (
    OUTPUTS,
    SUFFIX,
    in_blocks,
    multiply,
    whole,
)
from pomona_stage_worker.hardware.cpu_float32 import on_metal

TRIES = 2
LANE_ROWS = 1, 4
"""What decoding multiplies by, mostly."""
COLD_BYTES = 24 << 20
"""More than a processor's own caches hold."""
CLEARLY = 0.95
"""Of the time of the plainer order."""
WEIGHT = ".weight"
WORTH_TRYING_BYTES = 1 << 17
"""Smaller matrices stay as they are stored: they wait in the processor's own caches, and what is
measured of them is noise."""

Order = Callable[[mx.array], mx.array]

_fastest: dict[tuple[int | bool, ...], Order] = {}
"""By shape, and whether blocks are possible."""


def as_stored(weight: mx.array) -> mx.array:
    """The inputs of an output lie side by side."""
    return weight


def outputs_adjacent(weight: mx.array) -> mx.array:
    """The same matrices, lazily; in memory the outputs of an input lie side by side."""
    return mx.contiguous(weight.swapaxes(-1, -2)).swapaxes(-1, -2)


def multiplied(model: nn.Module) -> Mapping[str, bool]:
    """The parameters, by name, that a product takes transposed, and whether their layer may be
    replaced by one of blocks; none where that costs nothing.

    An embedding is one of them: most models draw from the same matrix that they look up in.
    """
    if on_metal():
        return {}
    kinds = (nn.Linear, nn.Embedding, SwitchLinear)
    return {
        f"{name}{WEIGHT}": type(layer) in (nn.Linear, nn.Embedding)
        for name, layer in model.named_modules()
        if isinstance(layer, kinds)
    }


def settled(name: str, weight: mx.array, may_block: bool) -> dict[str, mx.array]:
    """The matrix, evaluated, in the order that is multiplied fastest, under its name then."""
    mx.eval(weight)
    matrix = weight[0] if weight.ndim == 3 else weight
    if matrix.nbytes < WORTH_TRYING_BYTES:
        return {name: weight}
    key = (*weight.shape, may_block)
    if key not in _fastest:
        _fastest[key] = clearly_fastest(
            {o: product_seconds(o, matrix, LANE_ROWS) for o in orders(weight, may_block)}
        )
    ordered = _fastest[key](weight)
    mx.eval(ordered)
    in_its_order = name.removesuffix(WEIGHT) + SUFFIX if _fastest[key] is in_blocks else name
    return {in_its_order: ordered}


def kept(held: Mapping[str, mx.array], name: str) -> dict[str, mx.array]:
    """What is held of a parameter, under the name that it is held by."""
    names = (name, name.removesuffix(WEIGHT) + SUFFIX)
    return {known: held[known] for known in names if known in held}


def as_mlx_lm_has_them(arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """A stage's weights under their own names and in their own order, lazily."""
    made: dict[str, mx.array] = {}
    for name, array in arrays.items():
        if name.endswith(SUFFIX):
            made[name.removesuffix(SUFFIX) + WEIGHT] = mx.contiguous(whole(array))
        else:
            made[name] = mx.contiguous(array)
    return made


def orders(weight: mx.array, may_block: bool) -> list[Order]:
    """Those in which this weight may lie, the plainest first."""
    blocks = [in_blocks] if may_block and weight.shape[0] % OUTPUTS == 0 else []
    return [as_stored, outputs_adjacent, *blocks]


def clearly_fastest(seconds: Mapping[Order, float]) -> Order:
    """Of orders, the plainest first: one that is less plain must be worth it, and workers that
    are alike should not differ by what disturbed their trials."""
    best = next(iter(seconds))
    for order, took in seconds.items():
        if took < CLEARLY * seconds[best]:
            best = order
    return best


def product_seconds(order: Order, matrix: mx.array, rows: Sequence[int] = (1,)) -> float:
    """Of the products of so many rows with a matrix in an order, added up; each the quickest
    try, of many matrices one after the other, as a model has them: one alone would wait in the
    processor's caches."""
    count = max(1, COLD_BYTES // matrix.nbytes)
    ordered: list[mx.array] = []
    for _ in range(count):
        ordered.append(order(matrix + 0))
        mx.eval(ordered[-1])
    total = 0.0
    for number in rows:
        x = mx.ones((number, 1, matrix.shape[1]), dtype=matrix.dtype)
        best = float("inf")
        for _ in range(TRIES):
            products = [multiply(x, m) if order is in_blocks else x @ m.T for m in ordered]
            begin = time.perf_counter()
            mx.eval(products)
            best = min(best, time.perf_counter() - begin)
        total += best / count
    return total
