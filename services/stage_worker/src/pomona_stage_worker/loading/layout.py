"""How matrices lie in memory where MLX multiplies through BLAS: on machines without Metal.

A layer's product is ``x @ weight.T``, and for the few rows of a decoding step it takes as long
as reading the weight does. BLAS first copies the weight into panels of several outputs each.
Where the outputs of one input lie side by side it copies vectors, where the inputs of one
output do it gathers single numbers, at half the speed. The sums are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Set

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchLinear

from pomona_stage_worker.loading.precision import on_metal


def multiplied(model: nn.Module) -> Set[str]:
    """The parameters, by name, that a product takes transposed; none where that costs nothing.

    An embedding is one of them: most models draw from the same matrix that they look up in.
    """
    if on_metal():
        return frozenset()
    kinds = (nn.Linear, nn.Embedding, SwitchLinear)
    return {f"{name}.weight" for name, x in model.named_modules() if isinstance(x, kinds)}


def outputs_adjacent(weight: mx.array) -> mx.array:
    """The same matrix, shape (..., outputs, inputs), lazily; in memory the outputs of an input
    lie side by side."""
    return mx.contiguous(weight.swapaxes(-1, -2)).swapaxes(-1, -2)
