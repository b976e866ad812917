"""The measurement of a machine's speed: how much is read, how often, and for which machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from pomona_stage_worker.hardware import benchmark
from pomona_stage_worker.hardware.benchmark import (
    Speed,
    best_seconds,
    load_or_measure,
    quantized_bandwidth,
    signature,
)
from pomona_stage_worker.hardware.device import Device


@pytest.mark.slow
def test_an_evaluation_on_metal_reads_several_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "METAL_WARMUP_S", 0.0)
    multiply, wait = mx.quantized_matmul, mx.eval
    read: dict[int, int] = {}
    products: list[int] = []

    def multiplied(x: mx.array, weights: mx.array, *others: Any, **options: Any) -> mx.array:
        read[id(weights)] = weights.nbytes
        return multiply(x, weights, *others, **options)

    def evaluated(*arrays: Any) -> None:
        products.append(len(arrays[0]) if isinstance(arrays[0], list) else 0)
        wait(*arrays)

    monkeypatch.setattr(mx, "quantized_matmul", multiplied)
    monkeypatch.setattr(mx, "eval", evaluated)
    assert quantized_bandwidth(4 << 20) > 0
    assert sum(read.values()) >= 4 << 20, "each reading has the bytes, in different matrices"
    assert set(products[benchmark.METAL_PRODUCTS :]) == {benchmark.METAL_PRODUCTS}
    assert benchmark.METAL_PRODUCTS > 1
    assert benchmark.METAL_READ_BYTES >= 512 << 20


def test_untimed_runs_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    durations: list[float] = []

    def run() -> None:
        nonlocal clock
        durations.append(0.05 if clock < benchmark.METAL_WARMUP_S else 0.01)
        clock += durations[-1]

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    assert best_seconds(run, benchmark.METAL_WARMUP_S) == pytest.approx(0.01)
    assert benchmark.METAL_WARMUP_S >= 0.2
    assert sum(durations[: -benchmark.REPEATS]) >= benchmark.METAL_WARMUP_S
    assert durations[-benchmark.REPEATS :] == [0.01] * benchmark.REPEATS


def test_figures_do_not_survive_a_move_to_another_chip(tmp_path: Path) -> None:
    measured: list[str] = []

    def speed_of(chip: str) -> float:
        def measure() -> Speed:
            measured.append(chip)
            return Speed(memory_bandwidth=float(len(measured)))

        signed = signature(Device("metal", chip, 1), cpu_kernels=False)
        return load_or_measure(tmp_path, signed, measure).memory_bandwidth

    assert speed_of("Apple M1") == speed_of("Apple M1") == 1
    assert speed_of("Apple M3 Ultra") == 2
    assert measured == ["Apple M1", "Apple M3 Ultra"]
