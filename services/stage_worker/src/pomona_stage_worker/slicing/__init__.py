"""Cuts any mlx-lm model into stages that together compute exactly what the model computes.

    stage = slice_model(model, 0, 12)          # an unmodified mlx-lm model
    cache = stage.make_cache()
    sent = stage(tokens, None, cache)           # to the stage that starts at layer 12

No model family is known by name. `ModelStructure` traces one unevaluated forward pass and derives
the legal cuts and the arrays that cross each cut. The planner reads legal cuts from config.json
instead: `pomona.models.legal_cuts`.
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
    "uncuttable_reason",
]


def slice_model(model: nn.Module, start: int, stop: int) -> StageModel:
    """Builds the stage of `model` that owns the layers `[start, stop)`.

    Args:
        model: an mlx-lm model; its weights may be lazy, or not loaded yet.

    Raises:
        IllegalCutError: `start` or `stop` is not a legal cut.
    """
    return StageModel(model, ModelStructure(model), start, stop)


def legal_cuts(model: nn.Module) -> list[int]:
    """Returns the cut points k, 0 < k < n, where `[0, k)` and `[k, n)` can be stages."""
    return sorted(ModelStructure(model).boundaries)


def uncuttable_reason(model: nn.Module) -> str | None:
    """Returns why `model` has no legal cut; None when it has one, or has a single layer."""
    return ModelStructure(model).uncuttable_reason


def owned_parameters(model: nn.Module, start: int, stop: int) -> set[str]:
    """Returns the flattened names in `model.parameters()` that the stage `[start, stop)` reads.

    The head also owns the parameters read before the layers, the tail those read after them; a
    tied embedding belongs to both. Parameters that the text model never reads, like a vision
    tower, belong to no stage.

    Raises:
        IllegalCutError: `start` or `stop` is not a legal cut.
    """
    structure = ModelStructure(model)
    structure.check(start, stop)
    return structure.parameters(model, start, stop)
