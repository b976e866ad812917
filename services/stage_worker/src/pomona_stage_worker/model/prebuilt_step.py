"""A step built before its inputs have arrived.

Python needs milliseconds to build the graph of a step, in every stage, one after the other;
a process that generates alone hides that behind the computation of the step before. A stage
that waits builds the next step of a lane in that time, over arrays whose memory is filled
when the step arrives. A guess that turns out wrong is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from pomona.messages.codec import Buffer
from pomona.messages.pipeline import Tensor
from pomona_stage_worker.model.cache_table import Caches, cache_arrays
from pomona_stage_worker.slicing import StageModel
from pomona_stage_worker.slicing.phantom_caches import leaf_caches


class Input:
    """An array whose memory is written when its contents arrive."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        raw = "uint16" if tensor.dtype == "bfloat16" else tensor.dtype
        # mx.array is made of numpy's zeros because mx.zeros need not have memory of its own.
        self._memory = mx.array(np.zeros(tensor.shape, dtype=raw))
        mx.eval(self._memory)
        self._view: NDArray[Any] = np.asarray(self._memory)
        self.array = self._memory.view(mx.bfloat16) if tensor.dtype == "bfloat16" else self._memory

    def fill(self, buffer: Buffer) -> None:
        if self._view.size:
            flat = np.frombuffer(buffer, dtype=self._view.dtype)
            self._view[...] = flat.reshape(self._view.shape)


class Snapshot:
    """The state of caches, to be put back. While it lives, no cache is updated in place."""

    def __init__(self, caches: Caches) -> None:
        self._states = [
            (leaf, {name: _own(value) for name, value in vars(leaf).items()})
            for _, leaf in leaf_caches(caches)
        ]

    def restore(self) -> None:
        for leaf, state in self._states:
            vars(leaf).clear()
            vars(leaf).update(state)


@dataclass(slots=True)
class PrebuiltStep:
    """A built step: its inputs, its lazy output and what it leaves in the stage's caches, and
    the way back."""

    rows: tuple[int, ...]
    inputs: list[Input]
    output: Any
    cached: list[mx.array]
    before: Snapshot

    def fits(self, rows: Sequence[int], tensors: Sequence[Tensor]) -> bool:
        return self.rows == tuple(rows) and [i.tensor for i in self.inputs] == list(tensors)

    def take_back(self) -> None:
        self.before.restore()


def build_ahead(
    model: StageModel, caches: Caches, rows: tuple[int, ...], tensors: Sequence[Tensor]
) -> PrebuiltStep:
    """Build a sampling step of a lane over inputs like ``tensors``: ids, then activations."""
    before = Snapshot(caches)
    inputs = [Input(tensor) for tensor in tensors]
    activations = tuple(item.array for item in inputs[1:]) or None
    output = model(inputs[0].array, activations, caches, logits="last")
    cached = cache_arrays(model.owned_caches(caches))
    return PrebuiltStep(rows, inputs, output, cached, before)


def _own(value: Any) -> Any:
    """Another handle on the same array: mlx-lm assigns into the handles it has."""
    if isinstance(value, mx.array):
        return mx.array(value)
    if isinstance(value, list | tuple):
        items: list[Any] = [_own(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
