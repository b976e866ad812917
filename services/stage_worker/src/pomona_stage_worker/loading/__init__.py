"""Loads the weights of one stage from a model's files, fetching what is not on disk."""

from pomona_stage_worker.loading.fetch import Progress
from pomona_stage_worker.loading.loader import StageWeights, assemble, read_weights

__all__ = ["Progress", "StageWeights", "assemble", "read_weights"]
