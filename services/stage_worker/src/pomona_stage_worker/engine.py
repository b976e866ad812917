"""The engine that runs in production: MLX."""

from __future__ import annotations

from pomona.messages.control import Pipeline
from pomona.models import resolve
from pomona_stage_worker.constraints import Grammars
from pomona_stage_worker.loading import StageWeights, assemble, read_weights
from pomona_stage_worker.loading.precision import on_metal
from pomona_stage_worker.stage import MlxStage, Stage
from pomona_stage_worker.worker import Engine


def mlx_engine() -> Engine:
    def make(weights: StageWeights, pipeline: Pipeline) -> Stage:
        model = assemble(weights)
        grammars = None
        if model.is_tail:
            grammars = Grammars(resolve(weights.source), pipeline.vocab_size)
        return MlxStage(model, pipeline.cache_bits, grammars)

    return Engine("metal" if on_metal() else "cpu", read_weights, make)
