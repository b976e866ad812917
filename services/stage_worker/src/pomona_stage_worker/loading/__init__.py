"""Loads the weights of one stage from a model's files, fetching missing parts."""

from pomona_stage_worker.loading.fetch import Progress
from pomona_stage_worker.loading.loader import StageWeights, assemble, read_weights

__all__ = ["Progress", "StageWeights", "assemble", "read_weights"]
