"""Rotary embeddings whose angles are computed once a step, where MLX computes on the processor.

Metal and CUDA have a kernel for a rotation. On a processor MLX makes some twenty operations of it,
cosines and sines included, for the queries and the keys of every layer, though all turn by the same
angles; for the few rows of a decoding step that is a tenth of its time. Here a rotation is five.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten


class Angles:
    """Cosines and sines of the positions of a step, kept until others are asked for.

    Args:
        dims: numbers of a head; half as many frequencies.
        base: of the frequencies.
    """

    def __init__(self, dims: int, base: float) -> None:
        self._half = dims // 2
        self._exponent = math.log(base) / self._half
        self._offset: int | mx.array = -1
        self._length = 0
        self._made = (mx.zeros(0), mx.zeros(0))

    def at(self, offset: int | mx.array, length: int) -> tuple[mx.array, mx.array]:
        """Of ``length`` positions from ``offset``, one number or one a row; float32.

        Returns:
            Cosines, twice, and sines, negative at first, each (length, dims), or of an array of
            offsets (rows, 1, length, dims).
        """
        if length != self._length or not _same(offset, self._offset):
            self._made = self._make(offset, length)
            self._offset, self._length = offset, length
        return self._made

    def _make(self, offset: int | mx.array, length: int) -> tuple[mx.array, mx.array]:
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
    """An ``nn.RoPE`` that has its angles from others', and rotates to the same numbers, to the
    last bit: ``(a, b)`` to ``(a cos - b sin, a sin + b cos)``, each product rounded alone."""

    def __init__(self, dims: int, base: float, angles: Angles) -> None:
        super().__init__(dims, base=base)
        self._angles = angles

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        if x.shape[-1] != self.dims or x.dtype != mx.float32 or x.ndim != 4:
            return super().__call__(x, offset)  # type: ignore[reportArgumentType]  # arrays, too
        cosines, sines = self._angles.at(offset, x.shape[-2])
        first, second = mx.split(x, 2, axis=-1)
        return x * cosines + mx.concatenate([second, first], axis=-1) * sines


def share_angles(model: nn.Module) -> None:
    """Have the model's plain rotations compute their angles once a step."""
    angles: dict[tuple[int, float], Angles] = {}
    replacements: list[tuple[str, nn.Module]] = []
    for name, layer in model.named_modules():
        if type(layer) is nn.RoPE and not layer.traditional and layer.scale == 1.0:
            key = layer.dims, layer.base
            shared = angles.setdefault(key, Angles(*key))
            replacements.append((name, SharedRoPE(*key, shared)))
    model.update_modules(tree_unflatten(replacements))


def _same(one: int | mx.array, other: int | mx.array) -> bool:
    if isinstance(one, mx.array) or isinstance(other, mx.array):
        return one is other
    return one == other
