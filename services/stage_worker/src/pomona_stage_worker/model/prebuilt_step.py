"""A decode step whose graph is built before its inputs arrive.

Building the graph of a step takes Python milliseconds in every stage, one stage after the other.
A stage that waits builds the next step of a lane meanwhile, over arrays whose memory is filled
when the step arrives. If another step arrives, the caches are rolled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from pomona.messages.pipeline import Tensor
from pomona_stage_worker.model.activation_bytes import InputBuffer
from pomona_stage_worker.model.layer_caches import Caches, cache_arrays
from pomona_stage_worker.slicing import StageModel
from pomona_stage_worker.slicing.phantom_caches import leaf_caches


class CacheSnapshot:
    """The state of caches, for rollback. While it exists, no cache is updated in place."""

    def __init__(self, caches: Caches) -> None:
        self._states = [
            (leaf, {name: _new_handles(value) for name, value in vars(leaf).items()})
            for _, leaf in leaf_caches(caches)
        ]

    def restore(self) -> None:
        for leaf, state in self._states:
            vars(leaf).clear()
            vars(leaf).update(state)


@dataclass(slots=True)
class PrebuiltStep:
    """A built step of one lane.

    Attributes:
        rows: the lane's sequences.
        inputs: token ids, then activations; filled when the step arrives.
        output: the lazy output of the stage.
        cached: the arrays that the step leaves in this stage's caches.
        before: the caches before the step.
    """

    rows: tuple[int, ...]
    inputs: list[InputBuffer]
    output: Any
    cached: list[mx.array]
    before: CacheSnapshot

    def matches(self, rows: Sequence[int], tensors: Sequence[Tensor]) -> bool:
        """Returns True if the step that arrived has these rows, dtypes and shapes."""
        return self.rows == tuple(rows) and [i.tensor for i in self.inputs] == list(tensors)

    def rollback(self) -> None:
        """Restores the lane's caches."""
        self.before.restore()


def prebuild_step(
    model: StageModel, caches: Caches, rows: tuple[int, ...], tensors: Sequence[Tensor]
) -> PrebuiltStep:
    """Builds a sampling step of a lane.

    Args:
        tensors: dtypes and shapes of the inputs: token ids, then activations.
    """
    before = CacheSnapshot(caches)
    inputs = [InputBuffer(tensor) for tensor in tensors]
    activations = tuple(item.array for item in inputs[1:]) or None
    output = model(inputs[0].array, activations, caches, logits="last")
    cached = cache_arrays(model.owned_caches(caches))
    return PrebuiltStep(rows, inputs, output, cached, before)


def _new_handles(value: Any) -> Any:
    """Wraps the same arrays in new objects: mlx-lm assigns into the objects it has."""
    if isinstance(value, mx.array):
        return mx.array(value)
    if isinstance(value, list | tuple):
        items: list[Any] = [_new_handles(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
