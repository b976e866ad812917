"""Finds how many tokens a step may have and still give the bits of single steps.

A step with several guesses is exact only then. It depends on the chip, the quantization and the
kernels that MLX chooses by the number of rows and the length of the context, so it is tried when a
stage is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from pomona_stage_worker.model.layer_caches import Caches, cache_arrays
from pomona_stage_worker.model.warmup import zero_activations
from pomona_stage_worker.model.workspace import lengthen
from pomona_stage_worker.slicing import StageModel
from pomona_stage_worker.slicing.phantom_caches import leaf_caches

log = logging.getLogger(__name__)

GPU_WIDTH: Final = 8
CPU_WIDTH: Final = 4
"""Most tokens of a step that are tried. A processor's steps take longer with each token."""
GPU_CONTEXTS: Final = (24, 1500, 4500)
CPU_CONTEXTS: Final = (24,)
"""Tokens before the tried steps. MLX's attention takes another Metal kernel from 1,024 and from
4,096 keys on (``scaled_dot_product_attention.cpp``)."""


def exact_width(
    model: StageModel, most: int = GPU_WIDTH, contexts: Sequence[int] = GPU_CONTEXTS
) -> int:
    """Returns the most tokens, up to ``most``, of a step that gives the bits of single steps, as
    every shorter step does; at least 1.

    Models with caches other than plain KV caches are not tried.
    """
    if any(type(leaf) is not KVCache for _, leaf in leaf_caches(model.make_cache())):
        return 1
    width = most
    try:
        for context in contexts:
            width = _exact_width(model, width, context)
    except Exception:
        log.exception("cannot try steps of several tokens; the stage takes single ones")
        return 1
    return width


def _exact_width(model: StageModel, most: int, context: int) -> int:
    """Tries steps of 2, 3, ... tokens after ``context`` tokens against single steps."""
    tokens = mx.arange(1, most + 1, dtype=mx.int32)[None]
    activations = _random_activations(model, most)
    if any(array.shape[:2] != (1, most) for array in activations):
        return 1
    caches = _random_caches(model, context)
    steps = [
        _outputs(model, tokens[:, at : at + 1], [x[:, at : at + 1] for x in activations], caches)
        for at in range(most)
    ]
    apart = [mx.concatenate(list(arrays), axis=1) for arrays in zip(*steps, strict=True)]
    entries = [mx.contiguous(array) for array in _entries(model, caches, context)]
    mx.eval(entries)
    for width in range(2, most + 1):
        for _, leaf in leaf_caches(caches):
            leaf.offset = context
        together = _outputs(model, tokens[:, :width], [x[:, :width] for x in activations], caches)
        pairs = [
            *zip(together, [array[:, :width] for array in apart], strict=True),
            *zip(
                _entries(model, caches, context),
                [array[..., :width, :] for array in entries],
                strict=True,
            ),
        ]
        if not all(_same_bits(one, other) for one, other in pairs):
            return width - 1
    return most


def _outputs(
    model: StageModel, tokens: mx.array, activations: list[mx.array], caches: Caches
) -> list[mx.array]:
    output = model(tokens, tuple(activations) or None, caches, logits="all")
    arrays = list(output) if isinstance(output, tuple) else [output]
    mx.eval(arrays, cache_arrays(model.owned_caches(caches)))
    return arrays


def _random_activations(model: StageModel, width: int) -> list[mx.array]:
    return [
        mx.random.normal(array.shape, key=mx.random.key(number)).astype(array.dtype)
        for number, array in enumerate(zero_activations(model, 1, width))
    ]


def _random_caches(model: StageModel, context: int) -> Caches:
    caches = model.make_cache()
    _outputs(model, mx.zeros((1, 1), dtype=mx.int32), _random_activations(model, 1), caches)
    lengthen(caches, context, is_random=True)
    return caches


def _entries(model: StageModel, caches: Caches, start: int) -> list[mx.array]:
    """Returns the keys and values of this stage's layers from token ``start`` on."""
    leaves = [leaf for _, leaf in leaf_caches(model.owned_caches(caches))]
    return [
        array[..., start : leaf.offset, :] for leaf in leaves for array in (leaf.keys, leaf.values)
    ]


def _same_bits(one: mx.array, other: mx.array) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(mx.array_equal(_bits(one), _bits(other)))


def _bits(array: mx.array) -> mx.array:
    return mx.contiguous(array).view(mx.uint8)
