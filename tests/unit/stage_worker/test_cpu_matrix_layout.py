"""Tests that weights are stored in the memory layout that BLAS multiplies fastest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from pomona_stage_worker.hardware import cpu_blocked_linear, cpu_matrix_layout
from pomona_stage_worker.hardware.cpu_matrix_layout import Layout
from pomona_stage_worker.hardware.layout_file import LayoutFile
from pomona_stage_worker.loading import assemble, read_weights
from support.models.folders import CONFIG, tensors_of, write_folder
from unit.stage_worker.test_folder_weights import MOE, ignore_progress, random_model

SHAPES = [(576, 576), (192, 576), (576, 1536), (1536, 576), (7, 33), (2048, 96)]
LAYOUTS: Mapping[str, Layout] = {
    "stored": cpu_matrix_layout.as_stored,
    "adjacent": cpu_matrix_layout.outputs_adjacent,
    "blocks": cpu_blocked_linear.in_blocks,
}
WIDE = {**CONFIG, "hidden_size": 64, "intermediate_size": 128, "vocab_size": 192, "head_dim": 16}


def prefer(monkeypatch: pytest.MonkeyPatch, layout: str) -> list[tuple[str, list[int]]]:
    """Makes one layout the fastest. Returns a list that fills with the timed layouts and shapes."""
    timed: list[tuple[str, list[int]]] = []

    def seconds(of: Layout, matrix: mx.array, rows: object) -> float:
        timed.append((of.__name__, list(matrix.shape)))
        return float(of is not LAYOUTS[layout])

    monkeypatch.setattr(cpu_matrix_layout, "product_seconds", seconds)
    monkeypatch.setattr(cpu_matrix_layout, "_fastest", {})
    monkeypatch.setattr(cpu_matrix_layout, "MIN_TIMED_BYTES", 0)
    return timed


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 8, 9, 16, 33, 128])
def test_adjacent_outputs_do_not_change_a_product(shape: tuple[int, int], rows: int) -> None:
    weight = mx.random.normal(shape)
    x = mx.random.normal((rows, shape[1]))
    assert mx.array_equal(x @ cpu_matrix_layout.outputs_adjacent(weight).T, x @ weight.T), (
        "to the last bit"
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", [WIDE, {**MOE, **WIDE}], ids=["dense", "experts"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stage_loads_the_fastest_layout_and_computes_the_same(
    config: dict[str, object], layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = tensors_of(random_model(config))
    write_folder(tmp_path, tensors, config)
    count = CONFIG["num_hidden_layers"]
    answers: list[mx.array] = []
    for preferred in ("stored", layout):
        prefer(monkeypatch, preferred)
        read = read_weights(str(tmp_path), 0, count, ignore_progress, cpu_layout=True)
        stage = assemble(read)
        tokens = mx.array([[1, 2, 3]])
        answers.append(stage(tokens, None, stage.make_cache()))
    assert mx.allclose(answers[0], answers[1], atol=1e-4)
    inner = {
        name: np.asarray(x).strides[-2] == x.dtype.size
        for name, x in read.arrays.items()
        if x.ndim > 1 and not name.endswith(cpu_blocked_linear.SUFFIX)
    }
    assert all(lies == (layout == "adjacent") for lies in inner.values())
    in_blocks = [name for name in read.arrays if name.endswith(cpu_blocked_linear.SUFFIX)]
    assert bool(in_blocks) == (layout == "blocks")
    arrays = dict(read.arrays)
    again = read_weights(str(tmp_path), 0, count, ignore_progress, read, cpu_layout=True)
    assert all(again.arrays[name] is x for name, x in arrays.items()), "reused, not read"


def test_each_shape_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = prefer(monkeypatch, "blocks")
    for shape in [(128, 16), (128, 16), (3, 128, 16), (24, 16)]:
        cpu_matrix_layout.in_fastest_layout(
            "layer.weight", mx.random.normal(shape), may_block=len(shape) == 2
        )
    three = ["as_stored", "outputs_adjacent", "in_blocks"]
    assert timed == [
        *((name, [128, 16]) for name in three),
        *((name, [128, 16]) for name in three[:2]),
        *((name, [24, 16]) for name in three[:2]),
    ]


def test_a_small_matrix_keeps_the_stored_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = prefer(monkeypatch, "blocks")
    monkeypatch.setattr(cpu_matrix_layout, "MIN_TIMED_BYTES", 128 * 16 * 4)
    small, large = mx.random.normal((64, 16)), mx.random.normal((128, 16))
    assert cpu_matrix_layout.in_fastest_layout("a.weight", small, may_block=True) == {
        "a.weight": small
    }
    assert not timed
    assert cpu_matrix_layout.in_fastest_layout("b.weight", large, may_block=True).keys() == {
        "b.blocks"
    }


@pytest.mark.parametrize(
    ("adjacent", "blocked", "chosen"),
    [
        (0.98, 0.96, cpu_matrix_layout.as_stored),
        (0.90, 0.88, cpu_matrix_layout.outputs_adjacent),
        (0.98, 0.80, cpu_blocked_linear.in_blocks),
        (0.90, 0.80, cpu_blocked_linear.in_blocks),
    ],
)
def test_a_less_simple_layout_must_be_clearly_faster(
    adjacent: float, blocked: float, chosen: Layout
) -> None:
    seconds = {
        cpu_matrix_layout.as_stored: 1.0,
        cpu_matrix_layout.outputs_adjacent: adjacent,
        cpu_blocked_linear.in_blocks: blocked,
    }
    assert cpu_matrix_layout.clearly_fastest(seconds) is chosen


def test_a_layout_that_was_timed_is_not_timed_again_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_matrix_layout, "_files", [])
    weight = mx.random.normal((128, 16))

    def timed_by(process: LayoutFile, fastest: str) -> tuple[bool, str]:
        """Returns whether a process timed the shape, and the name of the parameter it made."""
        timed = prefer(monkeypatch, fastest)
        cpu_matrix_layout.keep_layouts_in(process)
        (name,) = cpu_matrix_layout.in_fastest_layout("a.weight", weight, may_block=True)
        return bool(timed), name

    other = LayoutFile(tmp_path, "this chip")
    assert timed_by(LayoutFile(tmp_path, "this chip"), "blocks") == (True, "a.blocks")
    assert timed_by(LayoutFile(tmp_path, "this chip"), "stored") == (False, "a.blocks")
    assert timed_by(other, "stored") == (True, "a.blocks"), "the first choice is everybody's"
    assert timed_by(LayoutFile(tmp_path, "another chip"), "stored") == (True, "a.weight")


def test_without_a_file_layouts_are_kept_in_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    for file in (LayoutFile(blocked, "chip"), LayoutFile(tmp_path / "new", "chip")):
        assert file.find("8x8") == ""
        assert file.add("8x8", "as_stored") == "as_stored"
        assert file.find("8x8") == "as_stored"
    (tmp_path / "layouts.json").write_text("[1")
    assert LayoutFile(tmp_path, "chip").find("8x8") == ""
