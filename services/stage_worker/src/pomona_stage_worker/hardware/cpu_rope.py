"""Rotary embeddings that share their angles within a step, for CPUs.

Metal and CUDA have a RoPE kernel. On a CPU, MLX runs some twenty operations, cosines and sines
included, for the queries and the keys of every layer, although all layers use the same angles.
With shared angles a rotation is five operations.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten


class RopeAngles:
    """Cosines and sines of the positions of a step, cached until other positions are requested.

    Args:
        dims: head dimension; half that many frequencies.
        base: base of the frequencies.
    """

    def __init__(self, dims: int, base: float) -> None:
        self._half = dims // 2
        self._exponent = math.log(base) / self._half
        self._offset: int | mx.array = -1
        self._length = 0
        self._cached = (mx.zeros(0), mx.zeros(0))

    def at(self, offset: int | mx.array, length: int) -> tuple[mx.array, mx.array]:
        """Returns the angles of ``length`` positions from ``offset``, which may be one per row.

        Returns:
            Cosines, repeated for both halves of a head, and sines, negated for the first half;
            float32 (length, dims), or (rows, 1, length, dims) for an array of offsets.
        """
        if length != self._length or not _same(offset, self._offset):
            self._cached = self._compute(offset, length)
            self._offset, self._length = offset, length
        return self._cached

    def _compute(self, offset: int | mx.array, length: int) -> tuple[mx.array, mx.array]:
        steps = mx.arange(length, dtype=mx.float32)
        if isinstance(offset, mx.array):
            positions = steps + mx.expand_dims(offset, (-1, -2)[: 1 + offset.ndim])
        else:
            positions = steps + offset
        powers = mx.arange(0, -self._half, -1, dtype=mx.float32) * self._exponent
        angles = mx.expand_dims(positions, -1) * mx.exp(powers)
        cosines, sines = mx.cos(angles), mx.sin(angles)
        return mx.concatenate([cosines, cosines], -1), mx.concatenate([-sines, sines], -1)


class SharedRoPE(nn.RoPE):
    """An ``nn.RoPE`` over shared angles. Equal to MLX's to the last bit: it rotates ``(a, b)`` to
    ``(a cos - b sin, a sin + b cos)`` and rounds each product alone."""

    def __init__(self, dims: int, base: float, angles: RopeAngles) -> None:
        super().__init__(dims, base=base)
        self._angles = angles

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        if x.shape[-1] != self.dims or x.dtype != mx.float32 or x.ndim != 4:
            return super().__call__(x, offset)  # type: ignore[reportArgumentType]  # arrays, too
        cosines, sines = self._angles.at(offset, x.shape[-2])
        first, second = mx.split(x, 2, axis=-1)
        return x * cosines + mx.concatenate([second, first], axis=-1) * sines


def share_angles(model: nn.Module) -> None:
    """Replaces the model's plain ``nn.RoPE`` layers by ones that share their angles. Traditional,
    scaled and custom ones stay."""
    angles: dict[tuple[int, float], RopeAngles] = {}
    replacements: list[tuple[str, nn.Module]] = []
    for name, layer in model.named_modules():
        if type(layer) is nn.RoPE and not layer.traditional and layer.scale == 1.0:
            key = layer.dims, layer.base
            shared = angles.setdefault(key, RopeAngles(*key))
            replacements.append((name, SharedRoPE(*key, shared)))
    model.update_modules(tree_unflatten(replacements))


def _same(one: int | mx.array, other: int | mx.array) -> bool:
    if isinstance(one, mx.array) or isinstance(other, mx.array):
        return one is other
    return one == other
