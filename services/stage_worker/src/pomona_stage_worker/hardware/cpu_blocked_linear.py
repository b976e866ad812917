"""Linear layers whose matrix is kept in blocks of a few outputs, for machines without Metal.

OpenBLAS copies a matrix into panels before it multiplies, which for the few rows of a decoding
step takes longer than the product; only small products it computes where the matrix lies. In
blocks every product is a small one. A sum is then one sum, not one of parts: it may differ in its
last bit from that of the whole matrix, as it does between any two BLAS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

OUTPUTS = 64
"""Of a block. With so many a product of four rows is small up to 3,900 inputs (OpenBLAS 0.3.21,
``interface/gemm.c``: rows times outputs times inputs at most a million)."""
SUFFIX = ".blocks"
"""Of the name under which a stage's weights have what the model calls ``.weight``."""


def in_blocks(weight: mx.array) -> mx.array:
    """(outputs, inputs) as (blocks, inputs, OUTPUTS), lazily."""
    outputs, inputs = weight.shape
    blocks = weight.reshape(outputs // OUTPUTS, OUTPUTS, inputs)
    return mx.contiguous(blocks.swapaxes(1, 2))


def whole(blocks: mx.array) -> mx.array:
    """The matrix again, (outputs, inputs), lazily."""
    count, inputs, outputs = blocks.shape
    return blocks.swapaxes(1, 2).reshape(count * outputs, inputs)


def multiply(x: mx.array, blocks: mx.array) -> mx.array:
    """``x @ whole(blocks).T``: (..., inputs) to (..., outputs)."""
    count, inputs, outputs = blocks.shape
    if x.shape == (1, 1, inputs):  # the commonest; Python's time for a step counts, too
        return (x @ blocks).reshape(1, 1, count * outputs)
    products = x.reshape(1, -1, inputs) @ blocks
    return products.swapaxes(0, 1).reshape(*x.shape[:-1], count * outputs)


class BlockedLinear(nn.Module):
    """An ``nn.Linear``. Some models look at a layer's ``weight``; then it is made."""

    def __init__(self, blocks: mx.array, bias: mx.array | None) -> None:
        super().__init__()
        self.blocks = blocks
        if bias is not None:
            self.bias = bias

    @property
    def weight(self) -> mx.array:
        return whole(self.blocks)

    def __call__(self, x: mx.array) -> mx.array:
        y = multiply(x, self.blocks)
        return y + self["bias"] if "bias" in self else y


class BlockedEmbedding(nn.Module):
    """An ``nn.Embedding``, from which most models also draw."""

    def __init__(self, blocks: mx.array) -> None:
        super().__init__()
        self.blocks = blocks

    @property
    def weight(self) -> mx.array:
        return whole(self.blocks)

    def __call__(self, x: mx.array) -> mx.array:
        return self.blocks[x // OUTPUTS, :, x % OUTPUTS]

    def as_linear(self, x: mx.array) -> mx.array:
        return multiply(x, self.blocks)


def put_blocks(model: nn.Module, arrays: Mapping[str, mx.array]) -> None:
    """Replace the layers whose matrices came in blocks. Args: arrays: by name, with SUFFIX."""
    for name, blocks in arrays.items():
        path = name.removesuffix(SUFFIX).split(".")
        keys: list[Any] = [int(part) if part.isdigit() else part for part in path]
        parent: Any = model
        for key in keys[:-1]:
            parent = parent[key]
        layer = parent[keys[-1]]
        if isinstance(layer, nn.Embedding):
            parent[keys[-1]] = BlockedEmbedding(blocks)
        else:
            parent[keys[-1]] = BlockedLinear(blocks, layer.get("bias"))
