"""From a model's files to the part of it that one stage owns."""

from pomona_stage_worker.loading.loader import StageWeights, assemble, read_weights
from pomona_stage_worker.loading.progress import Progress

__all__ = ["Progress", "StageWeights", "assemble", "read_weights"]
