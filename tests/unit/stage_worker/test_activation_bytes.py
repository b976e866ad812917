"""Tests that arrays survive as raw bytes in every dtype that crosses a cut."""

from __future__ import annotations

import mlx.core as mx
import pytest

from pomona_stage_worker.model.activation_bytes import (
    InputBuffer,
    describe,
    from_bytes,
    to_bytes,
)

DTYPES = [mx.bfloat16, mx.float16, mx.float32, mx.int32]


def example(dtype: mx.Dtype) -> mx.array:
    array = (mx.arange(24).reshape(2, 3, 4) - 7).astype(dtype)
    mx.eval(array)
    return array


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_survives_as_bytes(dtype: mx.Dtype) -> None:
    array = example(dtype)
    restored = from_bytes(describe(array), to_bytes(array))
    assert restored.dtype == dtype
    assert mx.array_equal(restored, array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_graph_sees_contents_that_arrive_after_it_was_built(dtype: mx.Dtype) -> None:
    array = example(dtype)
    buffer = InputBuffer(describe(array))
    doubled = buffer.array * 2
    buffer.fill(to_bytes(array))
    assert mx.array_equal(doubled, array * 2)


def test_an_array_without_elements_has_no_bytes() -> None:
    empty = mx.zeros((0,))
    assert to_bytes(empty) == b""
    assert from_bytes(describe(empty), b"").shape == (0,)
