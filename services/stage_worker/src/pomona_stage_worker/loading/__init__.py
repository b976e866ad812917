"""From a model's files to the part of it that one stage owns."""

from pomona_stage_worker.loading.loader import Progress, StageWeights, assemble, read_weights

__all__ = ["Progress", "StageWeights", "assemble", "read_weights"]
