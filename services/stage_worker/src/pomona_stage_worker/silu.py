"""SiLU for x86 processors, where MLX computes exponentials one by one.

MLX's wheel for Linux on x86 has no vector instructions of its own, and its exponential takes
9 ns there (MLX 0.32); the C library's power takes 4. mlx-lm's models call ``mlx.nn.silu`` by name
inside functions, where no layer stands that could be replaced, so the name is.
"""

from __future__ import annotations

import math
import platform
from functools import partial

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.activations import silu as mlx_silu


def use_quick_silu() -> None:
    """Have models that are built in this process use it, if the processor is an x86."""
    if platform.machine() == "x86_64":
        nn.silu = silu


@partial(mx.compile, shapeless=True)
def silu(x: mx.array) -> mx.array:
    """``x / (1 + e^-x)``, as exact as MLX's own; of types other than float32 it is MLX's own,
    because the base would have their precision."""
    return x / (1 + mx.power(math.e, -x)) if x.dtype == mx.float32 else mlx_silu(x)
