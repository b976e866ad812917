"""Splits the matrices of a stage over the ranks of a tensor group, by mlx-lm's own ``shard``.

    check_shardable(model, size)        # before anything is loaded
    shard_model(model, group)           # lazily; then slice_model as usual

``SHARDING.md`` lists every family that mlx-lm can shard, with what is refused and why.
"""

from pomona_stage_worker.sharding.legality import ShardingError, check_shardable, refusal
from pomona_stage_worker.sharding.shard import Ranks, shard_model

__all__ = ["Ranks", "ShardingError", "check_shardable", "refusal", "shard_model"]
