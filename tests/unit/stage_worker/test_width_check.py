"""A step of several tokens is allowed only where it gives the bits of single steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn

from pomona_stage_worker.model import width_check
from pomona_stage_worker.model.width_check import exact_width
from pomona_stage_worker.slicing import StageModel, slice_model
from support.models.random_llama import LAYERS, model
from support.slicing.families import build, randomise


class Replaced(nn.Module):
    """A layer that computes ``function`` of its input."""

    def __init__(self, function: Callable[[mx.array], mx.array]) -> None:
        super().__init__()
        self._function = function

    def __call__(self, x: mx.array) -> mx.array:
        return self._function(x)


def own_model() -> Any:
    """Returns a model that the test may change; ``model`` returns the same one to all."""
    return model.__wrapped__()


def rounding_otherwise(layer: Any, length: int) -> Replaced:
    """Returns the layer, which gives other bits from ``length`` tokens on."""
    return Replaced(lambda x: layer(x) * (1 + 1e-6 * (x.shape[1] >= length)))


@pytest.mark.parametrize("length", [2, 3, 5, 9])
def test_the_widest_exact_step_is_found(length: int) -> None:
    built = own_model()
    built.lm_head = rounding_otherwise(built.lm_head, length)
    assert exact_width(slice_model(built, 1, LAYERS), 8, (24,)) == length - 1


def test_an_inexact_cache_is_noticed_although_the_outputs_agree() -> None:
    built = own_model()
    attention = built.layers[-1].self_attn
    attention.k_proj = rounding_otherwise(attention.k_proj, 3)
    attention.o_proj = Replaced(mx.zeros_like)
    assert exact_width(slice_model(built, 0, LAYERS), 4, (24,)) == 2


def test_the_narrowest_context_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, int]] = []

    def found(_: StageModel, most: int, context: int) -> int:
        tried.append((most, context))
        return min(most, {24: 6, 1500: 3, 4500: 8}[context])

    monkeypatch.setattr(width_check, "_exact_width", found)
    assert exact_width(slice_model(model(), 0, LAYERS)) == 3
    assert tried == [(8, 24), (6, 1500), (3, 4500)]


@pytest.mark.parametrize("kind", ["mamba2", "gemma3_text"])
def test_models_with_other_caches_take_single_tokens(kind: str) -> None:
    built: Any = build(kind)
    randomise(built)
    assert exact_width(slice_model(built, 0, len(built.layers)), 4, (24,)) == 1


def test_a_model_that_raises_takes_single_tokens() -> None:
    def refuse(_: mx.array) -> mx.array:
        raise ValueError("no such kernel")

    built = own_model()
    stage = slice_model(built, 1, LAYERS)
    built.lm_head = Replaced(refuse)
    assert exact_width(stage, 4, (24,)) == 1
