"""Applies a model's own ``shard`` without evaluating anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import mlx.nn as nn


class Group(Protocol):
    """The part of ``mx.distributed.Group`` that sharding needs."""

    def rank(self) -> int: ...

    def size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Ranks:
    """A place in a group that does not exist: enough to shard, not to communicate.

    Attributes:
        of: number of ranks.
        number: rank of this process, in ``[0, of)``.
    """

    of: int
    number: int = 0

    def rank(self) -> int:
        return self.number

    def size(self) -> int:
        return self.of


def can_shard(model: nn.Module) -> bool:
    """Returns whether mlx-lm can shard the model's family."""
    return callable(getattr(model, "shard", None))


def shard_model(model: nn.Module, group: Group) -> nn.Module:
    """Replaces the model's matrices by this rank's parts, and its head counts by the rank's.

    The parts are lazy: evaluating one reads the tensors that it is made from. Call
    :func:`check_shardable` first, since mlx-lm accepts some splits that fail at the first step.

    Args:
        group: a group of ``mx.distributed``, or :class:`Ranks` where nothing is computed.

    Returns:
        The same model.
    """
    if group.size() > 1:
        cast("Any", model).shard(group)
    return model
