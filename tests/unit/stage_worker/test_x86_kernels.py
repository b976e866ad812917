"""Tests that attention on x86 is as exact as MLX's own, and faster."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.core.fast import scaled_dot_product_attention as mlx_attention
from numpy.typing import NDArray

from pomona import host
from pomona_stage_worker.hardware.device import this_device
from pomona_stage_worker.hardware.x86_kernels import attention
from pomona_stage_worker.mlx_backend import mlx_backend

ROWS, HEADS, KEY_HEADS, DIMS = 2, 6, 2, 16
SCALE = 0.25


def largest_error(values: mx.array, exact: NDArray[Any]) -> float:
    """Returns the largest error."""
    return float(np.abs(np.array(values, dtype=np.float64) - exact).max())


def heads_of(
    length: int, positions: int, spread: float = 1.0
) -> tuple[mx.array, mx.array, mx.array]:
    """Returns random queries, keys and values."""
    mx.random.seed(length)
    queries = spread * mx.random.normal((ROWS, HEADS, length, DIMS))
    keys = mx.random.normal((ROWS, KEY_HEADS, positions, DIMS))
    return queries, keys, mx.random.normal((ROWS, KEY_HEADS, positions, DIMS + 8))


def exact_attention(
    queries: mx.array, keys: mx.array, values: mx.array, allowed: NDArray[Any]
) -> NDArray[Any]:
    """Computes attention in float64."""
    q, k, v = (np.array(x, dtype=np.float64) for x in (queries, keys, values))
    k, v = (np.repeat(x, HEADS // KEY_HEADS, axis=1) for x in (k, v))
    scores = np.where(allowed, SCALE * q @ k.swapaxes(-1, -2), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_uses_mlxs_kernel(dtype: mx.Dtype) -> None:
    heads = [x.astype(dtype) for x in heads_of(3, 9)]
    ours = attention(*heads, scale=SCALE, mask="causal")
    assert ours.dtype == dtype
    assert mx.array_equal(ours, mlx_attention(*heads, scale=SCALE, mask="causal"))


@pytest.mark.parametrize("length", [1, 2, 40])
@pytest.mark.parametrize("positions", [50, 300])
@pytest.mark.parametrize("spread", [1.0, 60.0])
def test_attention_is_as_exact_as_mlxs_own(length: int, positions: int, spread: float) -> None:
    """Covers flat attention weights, and one position with nearly all the weight."""
    heads = heads_of(length, positions, spread)
    before: NDArray[Any] = np.arange(positions) <= np.arange(positions - length, positions)[:, None]
    padded: NDArray[Any] = before & (np.arange(positions) >= np.array([0, 7])[:, None, None, None])
    added: NDArray[Any] = np.where(padded, 0.0, -1e30).astype(np.float32)
    by_head: NDArray[Any] = before & (np.arange(positions) >= np.arange(HEADS)[None, :, None, None])
    masks: list[tuple[Any, NDArray[Any]]] = [
        (None, np.ones_like(before)),
        ("causal", before),
        (mx.array(before), before),
        (mx.array(padded), padded),
        (mx.array(added), padded),
        (mx.array(by_head), by_head),
    ]
    for mask, allowed in masks:
        exact = exact_attention(*heads, allowed)
        ours = attention(*heads, scale=SCALE, mask=mask)
        theirs = mlx_attention(*heads, scale=SCALE, mask=mask)
        assert largest_error(ours, exact) <= max(1.5 * largest_error(theirs, exact), 1e-6) < 1e-4


@pytest.mark.parametrize("mask", [mx.array(False), mx.array(-mx.inf)])
def test_a_query_without_allowed_positions_gets_zeros(mask: mx.array) -> None:
    everywhere = mx.broadcast_to(mask, (1, 1, 2, 12))
    assert mx.all(attention(*heads_of(2, 12), scale=SCALE, mask=everywhere) == 0)


def test_sinks_and_unknown_masks_use_mlxs_kernel() -> None:
    heads = heads_of(2, 12)
    sinks = mx.random.normal((HEADS,))
    ours = attention(*heads, scale=SCALE, mask="causal", sinks=sinks)
    assert mx.array_equal(ours, mlx_attention(*heads, scale=SCALE, mask="causal", sinks=sinks))
    with pytest.raises(ValueError, match="mask"):
        attention(*heads, scale=SCALE, mask="diagonal")


@pytest.mark.slow
@pytest.mark.skipif(
    host.MACHINE != "x86_64" or this_device().kind != "cpu",
    reason="only where MLX computes on an x86 processor",
)
def test_the_backend_uses_it_and_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """This attention can be deleted when MLX's own is as fast."""
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", mlx_attention)
    mlx_backend()
    assert mx.fast.scaled_dot_product_attention is attention
    for length in (1, 64):
        attends = partial(attend, heads_of(length, 1000))
        assert_faster(partial(attends, attention), partial(attends, mlx_attention))


def attend(heads: tuple[mx.array, mx.array, mx.array], function: Any) -> mx.array:
    return function(*heads, scale=SCALE, mask="causal")


def assert_faster(one: Callable[[], mx.array], other: Callable[[], mx.array]) -> None:
    """Compares the fastest of ten alternating runs."""
    seconds = {one: float("inf"), other: float("inf")}
    for _ in range(10):
        for function in seconds:
            begin = time.perf_counter()
            mx.eval(function())
            seconds[function] = min(seconds[function], time.perf_counter() - begin)
    assert seconds[one] < seconds[other]
