"""Repacks GGUF's quantised blocks into MLX's layout.

Block formats: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h. MLX stores
a 4-bit group as eight values in a uint32, first value lowest, and ``w = scale * q + bias``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

GROUP_SIZE = 32


@dataclass(frozen=True, slots=True)
class Quantized:
    """Affine-quantised matrix in MLX's layout: groups of 32, ``bits`` 4 or 8."""

    weight: mx.array
    scales: mx.array
    biases: mx.array
    bits: int

    def dequantized(self) -> mx.array:
        """Returns the matrix in float32."""
        return mx.dequantize(
            self.weight,
            self.scales.astype(mx.float32),
            self.biases.astype(mx.float32),
            group_size=GROUP_SIZE,
            bits=self.bits,
        )


def repack(kind: str, rows: NDArray[np.uint8]) -> Quantized:
    """Repacks a matrix.

    Args:
        kind: GGUF type, like ``Q4_K``.
        rows: raw blocks, shape (rows, bytes a row).
    """
    return _UNPACK[kind](rows)


def _floats(blocks: NDArray[np.uint8], offset: int) -> NDArray[np.float16]:
    """Returns the float16 at byte ``offset`` of each block."""
    return np.ascontiguousarray(blocks[..., offset : offset + 2]).view(np.float16)[..., 0]


def _words(values: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Packs 4-bit values into uint32 words of eight, first value lowest."""
    joined = values[..., 0::2] | (values[..., 1::2] << 4)
    return np.ascontiguousarray(joined).view(np.uint32)


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the low nibbles of all bytes, then the high nibbles."""
    return np.concatenate([packed & np.uint8(0xF), packed >> np.uint8(4)], axis=-1)


def _packed(
    words: NDArray[Any], scales: NDArray[Any], biases: NDArray[Any], bits: int
) -> Quantized:
    rows = words.shape[0]
    return Quantized(
        mx.array(words.reshape(rows, -1)),
        mx.array(scales.reshape(rows, -1)),
        mx.array(biases.reshape(rows, -1)),
        bits,
    )


def _q4_0(rows: NDArray[np.uint8]) -> Quantized:
    blocks = rows.reshape(rows.shape[0], -1, 18)
    scales = _floats(blocks, 0)
    return _packed(_words(_nibbles(blocks[..., 2:])), scales, scales * np.float16(-8), 4)


def _q4_1(rows: NDArray[np.uint8]) -> Quantized:
    blocks = rows.reshape(rows.shape[0], -1, 20)
    return _packed(_words(_nibbles(blocks[..., 4:])), _floats(blocks, 0), _floats(blocks, 2), 4)


def _q8_0(rows: NDArray[np.uint8]) -> Quantized:
    blocks = rows.reshape(rows.shape[0], -1, 34)
    scales = _floats(blocks, 0)
    values = np.ascontiguousarray(blocks[..., 2:]) ^ np.uint8(0x80)
    return _packed(values.view(np.uint32), scales, scales * np.float16(-128), 8)


def _q4_k(rows: NDArray[np.uint8]) -> Quantized:
    """Blocks of 256 values in eight groups; 6-bit scales and minima, scaled by two float16."""
    blocks = rows.reshape(rows.shape[0], -1, 144)
    packed = blocks[..., 4:16]
    low, middle, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate([low & 63, (high & 0xF) | ((low >> 6) << 4)], axis=-1)
    minima = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=-1)
    scale = _floats(blocks, 0)[..., None].astype(np.float32) * scales
    minimum = _floats(blocks, 2)[..., None].astype(np.float32) * minima
    values = _nibbles(blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32))
    return _packed(_words(values), scale.astype(np.float16), (-minimum).astype(np.float16), 4)


_UNPACK: dict[str, Callable[[NDArray[np.uint8]], Quantized]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q4_K": _q4_k,
    "Q8_0": _q8_0,
}
