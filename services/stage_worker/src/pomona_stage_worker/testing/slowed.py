"""``python -m pomona_stage_worker.testing.slowed``: a stage worker whose steps take a fixed time.

It computes what a stage worker computes, then waits as a larger model would: the tokens, the caches
and the draft model are real, and machines that share a processor do not disturb each other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from pomona.messages.codec import Buffer
from pomona.messages.control import Pipeline
from pomona.messages.pipeline import Step, Tensor
from pomona.service import run_service
from pomona.settings import settings_or_exit
from pomona_stage_worker.compute_backend import ComputeBackend
from pomona_stage_worker.loading import StageWeights
from pomona_stage_worker.mlx_backend import mlx_backend
from pomona_stage_worker.model.mlx_stage import Computation, Stage, StepOutput
from pomona_stage_worker.settings import StageWorkerSettings
from pomona_stage_worker.worker import StageWorker


class SlowedSettings(StageWorkerSettings):
    model_config = SettingsConfigDict(env_prefix="POMONA_STAGE_WORKER_")
    section: ClassVar[str] = "slowed"

    hold_ms: float = Field(default=100.0, ge=0, le=10000)
    """Least duration of every step, milliseconds."""


class SlowedStage:
    """A stage whose steps take at least ``hold_s`` seconds."""

    def __init__(self, stage: Stage, hold_s: float) -> None:
        self._stage = stage
        self._hold_s = hold_s
        self.can_batch = stage.can_batch
        self.can_slice = stage.can_slice
        self.can_roll_back = stage.can_roll_back
        self.has_experts = stage.has_experts
        self.max_width = stage.max_width
        self.warmup = stage.warmup

    def start_step(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        until = time.perf_counter() + self._hold_s
        computation = self._stage.start_step(step, tensors, buffers)
        if not step.rows:
            return computation

        def finish() -> StepOutput:
            output = computation.finish()
            time.sleep(max(until - time.perf_counter(), 0.0))
            return output

        return replace(computation, finish=finish)

    def prebuild(self) -> bool:
        return self._stage.prebuild()

    def table(self) -> dict[str, Any]:
        return self._stage.table()

    def cache_bytes(self) -> int:
        return self._stage.cache_bytes()

    def prefix_bytes(self) -> int:
        return self._stage.prefix_bytes()


def slowed_backend(settings: SlowedSettings) -> ComputeBackend:
    backend = mlx_backend()

    def make(weights: StageWeights, pipeline: Pipeline) -> Stage:
        return SlowedStage(backend.assemble(weights, pipeline), settings.hold_ms / 1000)

    return replace(backend, assemble=make)


def main() -> None:
    settings = settings_or_exit(SlowedSettings)
    backend = slowed_backend(settings)
    run_service(settings.instance, settings, lambda stop: StageWorker(settings, backend).run(stop))


if __name__ == "__main__":
    main()
