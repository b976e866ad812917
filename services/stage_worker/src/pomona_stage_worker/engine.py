"""The engine that runs in production: MLX."""

from __future__ import annotations

from pomona.messages.control import Pipeline
from pomona_stage_worker.loading import StageWeights, assemble, read_weights
from pomona_stage_worker.loading.precision import on_metal
from pomona_stage_worker.stage import MlxStage, Stage
from pomona_stage_worker.worker import Engine


def mlx_engine() -> Engine:
    def make(weights: StageWeights, pipeline: Pipeline) -> Stage:
        return MlxStage(assemble(weights), pipeline.cache_bits)

    return Engine("metal" if on_metal() else "cpu", read_weights, make)
