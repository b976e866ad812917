"""Cutting any mlx-lm model into stages that together compute exactly what it computes.

    stage = slice_model(model, 0, 12)          # an unmodified mlx-lm model
    cache = stage.make_cache()
    sent = stage(tokens, None, cache)           # to the stage that starts at layer 12

A family is never known by name: `ModelStructure` watches the model run once, without evaluating
anything, and learns where it may be cut and what crosses each cut.
"""

import mlx.nn as nn

from pomona_stage_worker.slicing.errors import ActivationsError, IllegalCutError, SlicingError
from pomona_stage_worker.slicing.model_structure import ModelStructure
from pomona_stage_worker.slicing.stage_model import Activations, Logits, StageModel
from pomona_stage_worker.slicing.tracer import has_body

__all__ = [
    "Activations",
    "ActivationsError",
    "IllegalCutError",
    "Logits",
    "ModelStructure",
    "SlicingError",
    "StageModel",
    "has_body",
    "legal_cuts",
    "owned_parameters",
    "slice_model",
    "why_whole",
]


def slice_model(model: nn.Module, start: int, stop: int) -> StageModel:
    """The stage of `model` that owns the layers `[start, stop)`.

    Args:
        model: an mlx-lm model; its weights may be lazy, or not loaded yet.

    Raises:
        IllegalCutError: when the range does not begin and end at legal cuts.
    """
    return StageModel(model, ModelStructure(model), start, stop)


def legal_cuts(model: nn.Module) -> list[int]:
    """The cut points k, 0 < k < n, such that `[0, k)` and `[k, n)` can be stages."""
    return sorted(ModelStructure(model).boundaries)


def why_whole(model: nn.Module) -> str | None:
    """Why `model` cannot be cut anywhere; None when it can, or has only one layer."""
    return ModelStructure(model).why_whole


def owned_parameters(model: nn.Module, start: int, stop: int) -> set[str]:
    """The names, as in `model.parameters()` flattened, that the stage `[start, stop)` needs.

    The head needs what is read before the layers, the tail what is read after them; a tied
    embedding is both. What the text model never reads, such as a vision tower, nobody needs.

    Raises:
        IllegalCutError: when the range does not begin and end at legal cuts.
    """
    anatomy = ModelStructure(model)
    anatomy.check(start, stop)
    return anatomy.parameters(model, start, stop)
