"""Matrices lie in memory as BLAS reads them fastest, and give the same products to the last bit."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from doubles.folders import CONFIG, tensors_of, write_folder
from pomona_stage_worker.loading import layout, read_weights
from pomona_stage_worker.loading.layout import outputs_adjacent
from unit.test_loading_folder import MOE, nothing, random_model

SHAPES = [(576, 576), (192, 576), (576, 1536), (1536, 576), (7, 33), (2048, 96)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 8, 9, 16, 33, 128])
def test_the_products_are_the_same_to_the_last_bit(shape: tuple[int, int], rows: int) -> None:
    weight = mx.random.normal(shape)
    x = mx.random.normal((rows, shape[1]))
    assert mx.array_equal(x @ outputs_adjacent(weight).T, x @ weight.T)


@pytest.mark.parametrize("config", [CONFIG, MOE], ids=["dense", "experts"])
@pytest.mark.parametrize("adjacent_is_faster", [True, False])
def test_every_matrix_of_a_stage_lies_in_the_order_that_is_read_faster(
    config: dict[str, object],
    adjacent_is_faster: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seconds(weight: mx.array) -> float:
        return float(_lies_adjacent(weight) != adjacent_is_faster)

    monkeypatch.setattr(layout, "product_seconds", seconds)
    monkeypatch.setattr(layout, "_adjacent_is_faster", {})
    write_folder(tmp_path, tensors_of(random_model(config)), config)
    read = read_weights(str(tmp_path), 0, CONFIG["num_hidden_layers"], nothing)
    matrices = {name: x for name, x in read.arrays.items() if x.ndim > 1}
    assert matrices
    for name, matrix in matrices.items():
        assert _lies_adjacent(matrix) == adjacent_is_faster, name


def test_each_shape_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[int]] = []

    def seconds(weight: mx.array) -> float:
        tried.append(list(weight.shape))
        return 1.0

    monkeypatch.setattr(layout, "product_seconds", seconds)
    monkeypatch.setattr(layout, "_adjacent_is_faster", {})
    for shape in [(24, 16), (24, 16), (3, 24, 16), (16, 24)]:
        layout.as_read_fastest(mx.random.normal(shape))
    assert tried == [[24, 16], [24, 16], [16, 24], [16, 24]], "each of two orders"


def _lies_adjacent(matrix: mx.array) -> bool:
    return np.asarray(matrix).strides[-2] == matrix.dtype.size
