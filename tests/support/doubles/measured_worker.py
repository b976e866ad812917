"""A stage worker that writes what it does with memory to its state folder.

``loads.jsonl`` has MLX's peak during each load: one object a load, with the layer range and bytes.
``memory_calls.jsonl`` has the calls by which memory is wired and given back, as on a Mac.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pomona_stage_worker.hardware.mlx_lm_import import import_mlx_lm

import_mlx_lm()

import mlx.core as mx  # noqa: E402 - MLX comes after the partial import of mlx-lm
import orjson  # noqa: E402

from pomona.service import run_service  # noqa: E402
from pomona.settings import settings_or_exit  # noqa: E402
from pomona_stage_worker.compute_backend import ComputeBackend  # noqa: E402
from pomona_stage_worker.hardware.benchmark import Speed  # noqa: E402
from pomona_stage_worker.hardware.metal_memory import GIB, MetalMemory  # noqa: E402
from pomona_stage_worker.loading import StageWeights  # noqa: E402
from pomona_stage_worker.mlx_backend import mlx_backend  # noqa: E402
from pomona_stage_worker.settings import StageWorkerSettings  # noqa: E402
from pomona_stage_worker.worker import StageWorker  # noqa: E402


class WrittenCalls:
    """MLX's functions for memory; each call is written to a file first. Nothing is wired."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set_wired_limit(self, limit: int) -> int:
        self._write("set_wired_limit", limit)
        return 0

    def set_cache_limit(self, limit: int) -> int:
        self._write("set_cache_limit", limit)
        return 0

    def clear_cache(self) -> None:
        self._write("clear_cache")
        mx.clear_cache()

    def synchronize(self) -> None:
        self._write("synchronize")
        mx.synchronize()

    def _write(self, *call: str | int) -> None:
        with self._path.open("ab") as file:
            file.write(orjson.dumps(call) + b"\n")


def backend(settings: StageWorkerSettings) -> ComputeBackend:
    real = mlx_backend(stock_kernels=True)
    calls = WrittenCalls(settings.state_dir / "memory_calls.jsonl")
    memory = MetalMemory(calls, 12 * GIB, 16 * GIB)

    def read(source: str, start: int, stop: int, *others: Any) -> StageWeights:
        mx.reset_peak_memory()
        weights = real.read(source, start, stop, *others)
        entry = {"range": [start, stop], "held": weights.nbytes, "peak": mx.get_peak_memory()}
        with (settings.state_dir / "loads.jsonl").open("ab") as file:
            file.write(orjson.dumps(entry) + b"\n")
        return weights

    def measure(_: Path) -> Speed:
        return Speed()

    return replace(real, read=read, measure=measure, memory=memory)


if __name__ == "__main__":
    found = settings_or_exit(StageWorkerSettings)
    run_service(found.instance, found, lambda stop: StageWorker(found, backend(found)).run(stop))
