"""Matrices lie in memory as BLAS multiplies them fastest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from pomona_stage_worker.hardware import cpu_blocked_linear, cpu_matrix_layout
from pomona_stage_worker.hardware.cpu_matrix_layout import Order, as_mlx_lm_has_them
from pomona_stage_worker.loading import assemble, read_weights
from support.models.folders import CONFIG, tensors_of, write_folder
from unit.stage_worker.test_folder_weights import MOE, nothing, random_model

SHAPES = [(576, 576), (192, 576), (576, 1536), (1536, 576), (7, 33), (2048, 96)]
ORDERS: Mapping[str, Order] = {
    "stored": cpu_matrix_layout.as_stored,
    "adjacent": cpu_matrix_layout.outputs_adjacent,
    "blocks": cpu_blocked_linear.in_blocks,
}
WIDE = {**CONFIG, "hidden_size": 64, "intermediate_size": 128, "vocab_size": 192, "head_dim": 16}


def prefer(monkeypatch: pytest.MonkeyPatch, order: str) -> list[tuple[str, list[int]]]:
    """Have one order be the fastest. Returns: what is tried, by and by."""
    tried: list[tuple[str, list[int]]] = []

    def seconds(of: Order, matrix: mx.array, rows: object) -> float:
        tried.append((of.__name__, list(matrix.shape)))
        return float(of is not ORDERS[order])

    monkeypatch.setattr(cpu_matrix_layout, "product_seconds", seconds)
    monkeypatch.setattr(cpu_matrix_layout, "_fastest", {})
    monkeypatch.setattr(cpu_matrix_layout, "WORTH_TRYING_BYTES", 0)
    return tried


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 8, 9, 16, 33, 128])
def test_the_order_does_not_change_a_product(shape: tuple[int, int], rows: int) -> None:
    weight = mx.random.normal(shape)
    x = mx.random.normal((rows, shape[1]))
    assert mx.array_equal(x @ cpu_matrix_layout.outputs_adjacent(weight).T, x @ weight.T), (
        "to the last bit"
    )


@pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape[0] % cpu_blocked_linear.OUTPUTS == 0]
)
@pytest.mark.parametrize("rows", [(1,), (1, 1), (4, 1), (2, 9), (1, 128)])
def test_blocks_give_a_product_as_exactly_as_the_whole_matrix(
    shape: tuple[int, int], rows: tuple[int, ...]
) -> None:
    weight = mx.random.normal(shape)
    x = mx.random.normal((*rows, shape[1]))
    made = cpu_blocked_linear.in_blocks(weight)
    assert mx.array_equal(cpu_blocked_linear.whole(made), weight)
    exact = np.asarray(x, dtype=np.float64) @ np.asarray(weight, dtype=np.float64).T
    product = np.asarray(cpu_blocked_linear.multiply(x, made))
    assert product.shape == exact.shape
    # Of a sum of n products, each rounded (N. Higham 2002, section 3.1), seen as random.
    bound = 2.0**-24 * 8 * shape[1] ** 0.5 * np.sqrt((exact**2).mean())
    assert np.abs(product - exact).max() < bound


def test_layers_of_blocks_do_what_mlxs_own_do() -> None:
    linear, embedding = nn.Linear(96, 128), nn.Embedding(192, 96)
    model = nn.Sequential(linear, nn.Linear(128, 96, bias=False))
    model.embedding = embedding
    x, ids = mx.random.normal((2, 3, 96)), mx.array([[0, 63, 64], [191, 5, 130]])
    expected = [model.layers[0](x), embedding(ids), embedding.as_linear(x)]
    cpu_blocked_linear.put_blocks(
        model,
        {
            "layers.0.blocks": cpu_blocked_linear.in_blocks(linear.weight),
            "embedding.blocks": cpu_blocked_linear.in_blocks(embedding.weight),
        },
    )
    placed = model.embedding
    assert type(placed) is cpu_blocked_linear.BlockedEmbedding
    found = [model.layers[0](x), placed(ids), placed.as_linear(x)]
    assert type(model.layers[0]) is cpu_blocked_linear.BlockedLinear
    for mine, theirs in zip(found, expected, strict=True):
        assert mx.allclose(mine, theirs, atol=1e-5)
    assert mx.array_equal(found[1], expected[1])
    assert mx.array_equal(placed.weight, embedding.weight), "models may look at it"
    assert mx.array_equal(model.layers[0].weight, linear.weight)


@pytest.mark.parametrize("config", [WIDE, {**MOE, **WIDE}], ids=["dense", "experts"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_stage_has_its_matrices_in_the_fastest_order_and_answers_the_same(
    config: dict[str, object], order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = tensors_of(random_model(config))
    write_folder(tmp_path, tensors, config)
    count = CONFIG["num_hidden_layers"]
    answers: list[mx.array] = []
    for preferred in ("stored", order):
        prefer(monkeypatch, preferred)
        read = read_weights(str(tmp_path), 0, count, nothing)
        stage = assemble(read)
        tokens = mx.array([[1, 2, 3]])
        answers.append(stage(tokens, None, stage.make_cache()))
    assert mx.allclose(answers[0], answers[1], atol=1e-4)
    inner = {
        name: np.asarray(x).strides[-2] == x.dtype.size
        for name, x in read.arrays.items()
        if x.ndim > 1 and not name.endswith(cpu_blocked_linear.SUFFIX)
    }
    assert all(lies == (order == "adjacent") for lies in inner.values())
    in_blocks = [name for name in read.arrays if name.endswith(cpu_blocked_linear.SUFFIX)]
    assert bool(in_blocks) == (order == "blocks")
    again = read_weights(str(tmp_path), 0, count, nothing, read)
    assert all(again.arrays[name] is x for name, x in read.arrays.items()), "kept, not read"
    plain = as_mlx_lm_has_them(read.arrays)
    assert plain.keys() == as_mlx_lm_has_them(again.arrays).keys()
    assert not any(name.endswith(cpu_blocked_linear.SUFFIX) for name in plain)


def test_each_shape_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = prefer(monkeypatch, "blocks")
    for shape in [(128, 16), (128, 16), (3, 128, 16), (24, 16)]:
        cpu_matrix_layout.settled(
            "layer.weight", mx.random.normal(shape), may_block=len(shape) == 2
        )
    three = ["as_stored", "outputs_adjacent", "in_blocks"]
    assert tried == [
        *((name, [128, 16]) for name in three),
        *((name, [128, 16]) for name in three[:2]),
        *((name, [24, 16]) for name in three[:2]),
    ]


def test_a_small_matrix_stays_as_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = prefer(monkeypatch, "blocks")
    monkeypatch.setattr(cpu_matrix_layout, "WORTH_TRYING_BYTES", 128 * 16 * 4)
    small, large = mx.random.normal((64, 16)), mx.random.normal((128, 16))
    assert cpu_matrix_layout.settled("a.weight", small, may_block=True) == {"a.weight": small}
    assert not tried
    assert cpu_matrix_layout.settled("b.weight", large, may_block=True).keys() == {"b.blocks"}


@pytest.mark.parametrize(
    ("adjacent", "blocked", "chosen"),
    [
        (0.98, 0.96, cpu_matrix_layout.as_stored),
        (0.90, 0.88, cpu_matrix_layout.outputs_adjacent),
        (0.98, 0.80, cpu_blocked_linear.in_blocks),
        (0.90, 0.80, cpu_blocked_linear.in_blocks),
    ],
)
def test_an_order_that_is_less_plain_must_be_clearly_faster(
    adjacent: float, blocked: float, chosen: cpu_matrix_layout.Order
) -> None:
    seconds = {
        cpu_matrix_layout.as_stored: 1.0,
        cpu_matrix_layout.outputs_adjacent: adjacent,
        cpu_blocked_linear.in_blocks: blocked,
    }
    assert cpu_matrix_layout.clearly_fastest(seconds) is chosen
