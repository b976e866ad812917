"""Linear layers whose weight is stored in blocks of a few outputs, for CPUs.

OpenBLAS copies a matrix into panels before it multiplies, which takes longer than the product for
the few rows of a decode step. It multiplies small matrices in place, and every block is small. A
blocked product may differ from that of the whole matrix in its last bit, as products of any two
BLAS libraries do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

OUTPUTS = 64
"""Outputs per block. OpenBLAS 0.3.21 (``interface/gemm.c``) multiplies in place while rows times
outputs times inputs is at most a million: four rows up to 3,900 inputs."""
SUFFIX = ".blocks"
"""Suffix of a blocked parameter's name in a stage's weights, in place of ``.weight``."""


def in_blocks(weight: mx.array) -> mx.array:
    """Reorders (outputs, inputs) to (blocks, inputs, OUTPUTS), lazily."""
    outputs, inputs = weight.shape
    blocks = weight.reshape(outputs // OUTPUTS, OUTPUTS, inputs)
    return mx.contiguous(blocks.swapaxes(1, 2))


def unblocked(blocks: mx.array) -> mx.array:
    """Restores the matrix (outputs, inputs), lazily."""
    count, inputs, outputs = blocks.shape
    return blocks.swapaxes(1, 2).reshape(count * outputs, inputs)


def multiply(x: mx.array, blocks: mx.array) -> mx.array:
    """Computes ``x @ unblocked(blocks).T``: (..., inputs) to (..., outputs)."""
    count, inputs, outputs = blocks.shape
    if x.shape == (1, 1, inputs):  # the most frequent shape; fewer Python calls
        return (x @ blocks).reshape(1, 1, count * outputs)
    products = x.reshape(1, -1, inputs) @ blocks
    return products.swapaxes(0, 1).reshape(*x.shape[:-1], count * outputs)


class BlockedLinear(nn.Module):
    """An ``nn.Linear`` over blocks. ``weight`` is computed for models that read it."""

    def __init__(self, blocks: mx.array, bias: mx.array | None) -> None:
        super().__init__()
        self.blocks = blocks
        if bias is not None:
            self.bias = bias

    @property
    def weight(self) -> mx.array:
        return unblocked(self.blocks)

    def __call__(self, x: mx.array) -> mx.array:
        y = multiply(x, self.blocks)
        return y + self["bias"] if "bias" in self else y


class BlockedEmbedding(nn.Module):
    """An ``nn.Embedding`` over blocks, which most models also use as the vocabulary head."""

    def __init__(self, blocks: mx.array) -> None:
        super().__init__()
        self.blocks = blocks

    @property
    def weight(self) -> mx.array:
        return unblocked(self.blocks)

    def __call__(self, x: mx.array) -> mx.array:
        return self.blocks[x // OUTPUTS, :, x % OUTPUTS]

    def as_linear(self, x: mx.array) -> mx.array:
        return multiply(x, self.blocks)


def replace_layers(model: nn.Module, blocked: Mapping[str, mx.array]) -> None:
    """Replaces the layers whose weights are blocked.

    Args:
        blocked: blocks by parameter name, which ends in SUFFIX.
    """
    for name, blocks in blocked.items():
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
