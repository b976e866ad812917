"""The SiLU that stage workers use on x86 is as exact as MLX's own, and quicker."""

from __future__ import annotations

import platform
import time

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from pomona_stage_worker.silu import silu, use_quick_silu


def error(values: mx.array, x: mx.array) -> float:
    """The largest, of what float64 gives."""
    exact = np.array(x, dtype=np.float64)
    exact = exact / (1 + np.exp(-exact))
    return float(np.abs(np.array(values, dtype=np.float64) - exact).max())


def test_it_is_as_exact_as_mlxs_own() -> None:
    x = mx.linspace(-80, 80, 100_001)
    assert error(silu(x), x) <= 1.01 * error(nn.silu(x), x) < 1e-5


@pytest.mark.parametrize("value", [0.0, -0.0, 1e4, -1e4, float("inf"), float("nan")])
def test_at_the_ends_it_is_mlxs_own(value: float) -> None:
    assert mx.array_equal(silu(mx.array(value)), nn.silu(mx.array(value)), equal_nan=True)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_is_left_to_mlx(dtype: mx.Dtype) -> None:
    x = mx.random.normal((3, 40)).astype(dtype)
    assert silu(x).dtype == dtype
    assert mx.array_equal(silu(x), nn.silu(x))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86 processors need it")
def test_models_use_it_on_x86_and_it_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """When MLX's own no longer takes longer, ours can go."""
    own = nn.silu
    monkeypatch.setattr(nn, "silu", own)
    use_quick_silu()
    assert nn.silu is silu
    seconds: dict[object, float] = {own: float("inf"), silu: float("inf")}
    x = mx.random.normal((100_000,))
    for _ in range(10):
        for function in (own, silu):
            begin = time.perf_counter()
            mx.eval(function(x))
            seconds[function] = min(seconds[function], time.perf_counter() - begin)
    assert seconds[silu] < seconds[own]
