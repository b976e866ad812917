"""An emulated stage worker whose steps never end once the file ``hang`` is in its state folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pomona.messages.codec import Buffer
from pomona.messages.control import Pipeline
from pomona.messages.pipeline import Step, Tensor
from pomona.service import run_service
from pomona.settings import settings_or_exit
from pomona_stage_worker.compute_backend import ComputeBackend
from pomona_stage_worker.loading import StageWeights
from pomona_stage_worker.model.mlx_stage import Computation, Stage, StepOutput
from pomona_stage_worker.testing.emulated import (
    EmulatedSettings,
    EmulatedStage,
    emulated_backend,
)
from pomona_stage_worker.worker import StageWorker


class HangingStage(EmulatedStage):
    def __init__(self, settings: EmulatedSettings, is_tail: bool) -> None:
        super().__init__(settings.hold_ms / 1000, settings.width, is_tail)
        self._trigger: Path = settings.state_dir / "hang"

    def start_step(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        computation = super().start_step(step, tensors, buffers)
        return replace(computation, finish=lambda: self._finish(computation))

    def _finish(self, computation: Computation) -> StepOutput:
        if self._trigger.exists():
            self._trigger.unlink()
            time.sleep(3600)
        return computation.finish()


def backend(settings: EmulatedSettings) -> ComputeBackend:
    def make(weights: StageWeights, pipeline: Pipeline) -> Stage:
        return HangingStage(settings, weights.stop == pipeline.layer_count)

    return replace(emulated_backend(settings), assemble=make)


if __name__ == "__main__":
    read = settings_or_exit(EmulatedSettings)
    run_service(read.instance, read, lambda stop: StageWorker(read, backend(read)).run(stop))
