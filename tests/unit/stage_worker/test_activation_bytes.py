"""Tests that arrays survive as raw bytes in every dtype that crosses a cut."""

from __future__ import annotations

import mlx.core as mx
import pytest

from pomona_stage_worker.model.activation_bytes import (
    InputBuffer,
    as_own_dtypes,
    describe,
    exportable,
    from_bytes,
    to_bytes,
)

DTYPES = [mx.bfloat16, mx.float16, mx.float32, mx.int32]


def example(dtype: mx.Dtype) -> mx.array:
    array = (mx.arange(24).reshape(2, 3, 4) - 7).astype(dtype)
    mx.eval(array)
    return array


def evaluated(array: mx.array) -> mx.array:
    raw = exportable(array)
    mx.eval(raw)
    return raw


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_survives_as_bytes(dtype: mx.Dtype) -> None:
    array = example(dtype)
    restored = from_bytes(describe(array), to_bytes(evaluated(array)))
    assert restored.dtype == dtype
    assert mx.array_equal(restored, array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_graph_sees_contents_that_arrive_after_it_was_built(dtype: mx.Dtype) -> None:
    array = example(dtype)
    buffer = InputBuffer(describe(array))
    doubled = buffer.array * 2
    buffer.fill(to_bytes(evaluated(array)))
    assert mx.array_equal(doubled, array * 2)


def test_an_array_without_elements_has_no_bytes() -> None:
    empty = mx.zeros((0,))
    assert to_bytes(exportable(empty)) == b""
    assert from_bytes(describe(empty), b"").shape == (0,)


def test_a_strided_array_survives_as_bytes() -> None:
    array = example(mx.bfloat16).swapaxes(0, 2)
    assert mx.array_equal(from_bytes(describe(array), to_bytes(evaluated(array))), array)


@pytest.mark.parametrize("own", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("arrived", [mx.float16, mx.bfloat16, mx.float32])
def test_activations_get_the_stages_own_float_type(own: mx.Dtype, arrived: mx.Dtype) -> None:
    ids = mx.array([[1, 2]])
    cast = as_own_dtypes([example(arrived), ids], [own, own])
    assert [array.dtype for array in cast] == [own, mx.int32]
