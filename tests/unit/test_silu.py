"""The SiLU that stage workers use on x86 is as exact as MLX's own, and quicker."""

from __future__ import annotations

import platform
import time

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.nn.layers.activations import silu as mlx_silu

from pomona_stage_worker.device import this_device
from pomona_stage_worker.engine import mlx_engine
from pomona_stage_worker.silu import silu


def error(values: mx.array, x: mx.array) -> float:
    """The largest, of what float64 gives."""
    exact = np.array(x, dtype=np.float64)
    exact = exact / (1 + np.exp(-exact))
    return float(np.abs(np.array(values, dtype=np.float64) - exact).max())


def test_it_is_as_exact_as_mlxs_own() -> None:
    x = mx.linspace(-80, 80, 100_001)
    assert error(silu(x), x) <= 1.01 * error(mlx_silu(x), x) < 1e-5


@pytest.mark.parametrize("value", [0.0, -0.0, 1e4, -1e4, float("inf"), float("nan")])
def test_at_the_ends_it_is_mlxs_own(value: float) -> None:
    assert mx.array_equal(silu(mx.array(value)), mlx_silu(mx.array(value)), equal_nan=True)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_is_left_to_mlx(dtype: mx.Dtype) -> None:
    x = mx.random.normal((3, 40)).astype(dtype)
    assert silu(x).dtype == dtype
    assert mx.array_equal(silu(x), mlx_silu(x))


@pytest.mark.skipif(
    platform.machine() != "x86_64" or this_device().kind != "cpu",
    reason="only where MLX computes on an x86 processor",
)
def test_the_engine_uses_it_and_it_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """When MLX's own no longer takes longer, ours can go."""
    monkeypatch.setattr(nn, "silu", mlx_silu)
    mlx_engine()
    assert nn.silu is silu
    seconds: dict[object, float] = {mlx_silu: float("inf"), silu: float("inf")}
    x = mx.random.normal((100_000,))
    for _ in range(10):
        for function in (mlx_silu, silu):
            begin = time.perf_counter()
            mx.eval(function(x))
            seconds[function] = min(seconds[function], time.perf_counter() - begin)
    assert seconds[silu] < seconds[mlx_silu]
