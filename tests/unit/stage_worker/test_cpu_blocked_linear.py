"""Tests that blocked layers compute what MLX's own layers compute."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from pomona_stage_worker.hardware.cpu_blocked_linear import (
    BlockedEmbedding,
    BlockedLinear,
    in_blocks,
    multiply,
    replace_layers,
    unblocked,
)

SHAPES = [(576, 576), (192, 576), (576, 1536), (1536, 576)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [(1,), (1, 1), (4, 1), (2, 9), (1, 128)])
def test_a_blocked_product_is_as_exact_as_that_of_the_whole_matrix(
    shape: tuple[int, int], rows: tuple[int, ...]
) -> None:
    weight = mx.random.normal(shape)
    x = mx.random.normal((*rows, shape[1]))
    blocks = in_blocks(weight)
    assert mx.array_equal(unblocked(blocks), weight)
    exact = np.asarray(x, dtype=np.float64) @ np.asarray(weight, dtype=np.float64).T
    product = np.asarray(multiply(x, blocks))
    assert product.shape == exact.shape
    # Error of a sum of n rounded products, with random signs (N. Higham 2002, section 3.1).
    bound = 2.0**-24 * 8 * shape[1] ** 0.5 * np.sqrt((exact**2).mean())
    assert np.abs(product - exact).max() < bound


def test_blocked_layers_equal_mlxs_own_layers() -> None:
    linear, embedding = nn.Linear(96, 128), nn.Embedding(192, 96)
    model = nn.Sequential(linear, nn.Linear(128, 96, bias=False))
    model.embedding = embedding
    x, ids = mx.random.normal((2, 3, 96)), mx.array([[0, 63, 64], [191, 5, 130]])
    expected = [model.layers[0](x), embedding(ids), embedding.as_linear(x)]
    replace_layers(
        model,
        {
            "layers.0.blocks": in_blocks(linear.weight),
            "embedding.blocks": in_blocks(embedding.weight),
        },
    )
    placed = model.embedding
    assert type(placed) is BlockedEmbedding
    found = [model.layers[0](x), placed(ids), placed.as_linear(x)]
    assert type(model.layers[0]) is BlockedLinear
    for ours, theirs in zip(found, expected, strict=True):
        assert mx.allclose(ours, theirs, atol=1e-5)
    assert mx.array_equal(found[1], expected[1])
    assert mx.array_equal(placed.weight, embedding.weight), "models may read it"
    assert mx.array_equal(model.layers[0].weight, linear.weight)
