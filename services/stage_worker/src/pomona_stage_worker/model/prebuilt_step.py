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
from pomona_stage_worker.model.activation_bytes import InputBuffer, as_own_dtypes
from pomona_stage_worker.model.guess_log import CacheSnapshot
from pomona_stage_worker.model.layer_caches import Caches, cache_arrays
from pomona_stage_worker.slicing import StageModel


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
    model: StageModel,
    caches: Caches,
    rows: tuple[int, ...],
    tensors: Sequence[Tensor],
    dtypes: Sequence[mx.Dtype],
) -> PrebuiltStep:
    """Builds a sampling step of a lane.

    Args:
        tensors: dtypes and shapes of the inputs: token ids, then activations.
        dtypes: dtypes of the activations in this stage.
    """
    before = CacheSnapshot(caches)
    inputs = [InputBuffer(tensor) for tensor in tensors]
    activations = as_own_dtypes([item.array for item in inputs[1:]], dtypes) or None
    output = model(inputs[0].array, activations, caches, logits="last")
    cached = cache_arrays(model.owned_caches(caches))
    return PrebuiltStep(rows, inputs, output, cached, before)
