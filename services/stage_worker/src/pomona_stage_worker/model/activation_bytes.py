"""Arrays as raw bytes, by dtype: what crosses from stage to stage.

numpy has no bfloat16, so its bytes are read and written as uint16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from pomona.messages.codec import Buffer
from pomona.messages.pipeline import Tensor


def describe(array: mx.array) -> Tensor:
    """Returns dtype and shape of an array as a message states them."""
    dtype = str(array.dtype).rpartition(".")[2]
    return Tensor(dtype, tuple(array.shape))  # type: ignore[arg-type]  # checked by receivers


def exportable(array: mx.array) -> mx.array:
    """Returns the array as :func:`to_bytes` takes it, lazy.

    It belongs into the graph that is evaluated: made afterwards, it would cost another evaluation,
    and on a GPU another round trip.
    """
    return mx.contiguous(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def to_bytes(array: mx.array) -> Buffer:
    """Returns the raw bytes of an evaluated array from :func:`exportable`, without a copy."""
    return np.asarray(array).data.cast("B") if array.size else b""


def from_bytes(tensor: Tensor, buffer: Buffer) -> mx.array:
    """Returns the array whose raw bytes arrived as ``buffer``."""
    raw = np.frombuffer(buffer, dtype=_numpy_dtype(tensor)).reshape(tensor.shape)
    return _as_declared(mx.array(raw), tensor)


def as_own_dtypes(arrays: Sequence[mx.array], dtypes: Sequence[mx.Dtype]) -> tuple[mx.array, ...]:
    """Casts activations of another float type to the stage's own, lazily.

    A stage without Metal sends float32; added to a Mac's float16, everything after it, KV caches
    included, would become float32.
    """
    if len(arrays) != len(dtypes):
        return tuple(arrays)
    return tuple(
        array.astype(dtype)
        if mx.issubdtype(array.dtype, mx.floating) and mx.issubdtype(dtype, mx.floating)
        else array
        for array, dtype in zip(arrays, dtypes, strict=True)
    )


class InputBuffer:
    """An array that is part of a graph before its contents arrive."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        # Made from numpy's zeros, because mx.zeros need not have memory of its own.
        self._memory = mx.array(np.zeros(tensor.shape, dtype=_numpy_dtype(tensor)))
        mx.eval(self._memory)
        self._view: NDArray[Any] = np.asarray(self._memory)
        self.array = _as_declared(self._memory, tensor)

    def fill(self, buffer: Buffer) -> None:
        """Writes the contents into the array's memory."""
        if self._view.size:
            flat = np.frombuffer(buffer, dtype=self._view.dtype)
            self._view[...] = flat.reshape(self._view.shape)


def _numpy_dtype(tensor: Tensor) -> str:
    return "uint16" if tensor.dtype == "bfloat16" else tensor.dtype


def _as_declared(raw: mx.array, tensor: Tensor) -> mx.array:
    return raw.view(mx.bfloat16) if tensor.dtype == "bfloat16" else raw
