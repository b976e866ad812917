"""Tests the switch between MLX's own kernels and their replacements on a CPU."""

from __future__ import annotations

from typing import Any

import pytest

from pomona.messages.control import Pipeline
from pomona_stage_worker import mlx_backend
from pomona_stage_worker.hardware.device import Device, Kind
from pomona_stage_worker.loading import StageWeights
from pomona_stage_worker.model.warmup import NO_WARMUP, WarmupTiming
from pomona_stage_worker.slicing import StageModel, slice_model
from support.models.random_llama import LAYERS, model

WEIGHTS = StageWeights("m", 0, 1, model, {})
PIPELINE = Pipeline("m", "m", 1, LAYERS, "active", (), 8000, 4000)


@pytest.mark.parametrize("stock_kernels", [False, True])
@pytest.mark.parametrize("kind", ["cpu", "cuda", "metal"])
def test_replacements_are_used_on_a_cpu_only_and_never_with_stock_kernels(
    kind: Kind, stock_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def read(*_: Any, cpu_layout: bool) -> StageWeights:
        used.extend(["layout"] * cpu_layout)
        return WEIGHTS

    def assemble(_: StageWeights) -> StageModel:
        return slice_model(model(), 0, 1)

    def warm_up(_: StageModel, chunk: int, cache_bits: int) -> WarmupTiming:
        assert chunk == (300 if kind != "cpu" else mlx_backend.CPU_WARMUP_CHUNK)
        return NO_WARMUP

    def measure_workspace(_: StageModel, chunk: int, context: int, *__: Any) -> int:
        assert (kind, chunk, context) == ("metal", 300, 4000)
        used.append("workspace")
        return 7

    for name, stub in {
        "use_on_x86": lambda: used.append("attention"),
        "this_device": lambda: Device(kind, "d", 1),
        "read_weights": read,
        "assemble": assemble,
        "warm_up": warm_up,
        "measure_workspace": measure_workspace,
    }.items():
        monkeypatch.setattr(mlx_backend, name, stub)
    backend = mlx_backend.mlx_backend(stock_kernels=stock_kernels, prefill_chunk=300)
    weights = backend.read("m", 0, 1, lambda done, total, fetching=False: None, None, ())
    stage = backend.assemble(weights, PIPELINE)
    assert stage.warmup.workspace_bytes == (7 if kind == "metal" else 0)
    expected = ["attention", "layout"] if kind == "cpu" and not stock_kernels else []
    expected += ["workspace"] * (kind == "metal")
    assert used == expected
