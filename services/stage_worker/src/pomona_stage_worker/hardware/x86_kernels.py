"""Attention for x86 processors, where MLX computes exponentials one by one.

MLX's wheel for Linux on x86 has no vector instructions: its softmax takes 13 ns a number (MLX
0.32), the C library's power 4 ns. mlx-lm's models call attention by name, so the name is replaced,
not a layer.

Only float32 is computed here, since a power of e in another type would lack precision.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import mlx.core as mx
from mlx.core.fast import scaled_dot_product_attention as mlx_attention

from pomona import host


def use_on_x86() -> None:
    """Replaces MLX's attention in this process if the processor is an x86."""
    if host.MACHINE == "x86_64":
        mx.fast.scaled_dot_product_attention = attention


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    scale: float,
    mask: mx.array | str | None = None,
    sinks: mx.array | None = None,
    **others: Any,
) -> mx.array:
    """Computes ``softmax(scale * queries @ keys.T) @ values`` as exactly as MLX's own. Query heads
    that share keys are one product.

    Args:
        queries: (rows, heads, length, dims).
        keys, values: (rows, key_heads, positions, dims each).
        mask: bool (True attends) or float (added), broadcast to (rows, heads, length, positions);
            or "causal". With a length over 1, a query that may attend to nothing gets zeros.
    """
    plain = queries.dtype == keys.dtype == values.dtype == mx.float32 and sinks is None
    if not plain or others or (isinstance(mask, str) and mask != "causal"):
        return mlx_attention(queries, keys, values, scale=scale, mask=mask, sinks=sinks, **others)
    rows, heads, length, dims = queries.shape
    key_heads, positions = keys.shape[1:3]
    grouped = rows, key_heads, heads // key_heads * length
    scores = (queries * scale).reshape(*grouped, dims) @ keys.swapaxes(-1, -2)
    if mask is not None and (length > 1 or not isinstance(mask, str)):
        allowed = _causal(length, positions) if isinstance(mask, str) else mask
        if allowed.shape[-3:-1] != (1, 1):  # otherwise it broadcasts to the grouped shape
            scores = scores.reshape(rows, heads, length, positions)
        scores = _masked(scores, allowed).reshape(*grouped, positions)
    largest = scores.max(-1, keepdims=True)
    if length > 1:  # queries in a prompt's padding attend to nothing
        largest = mx.maximum(largest, mx.finfo(mx.float32).min)
    weights = _powers(scores, largest)
    total = weights.sum(-1, keepdims=True)
    if length > 1:
        total = mx.maximum(total, 1)
    return ((weights @ values) / total).reshape(rows, heads, length, values.shape[-1])


def _causal(length: int, positions: int) -> mx.array:
    return mx.arange(positions - length, positions)[:, None] >= mx.arange(positions)


@partial(mx.compile, shapeless=True)
def _masked(scores: mx.array, mask: mx.array) -> mx.array:
    return mx.where(mask, scores, -mx.inf) if mask.dtype == mx.bool_ else scores + mask


@partial(mx.compile, shapeless=True)
def _powers(scores: mx.array, largest: mx.array) -> mx.array:
    """Computes e^(scores - largest)."""
    return mx.power(math.e, scores - largest)
