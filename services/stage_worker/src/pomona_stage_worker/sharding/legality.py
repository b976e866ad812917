"""Decides whether a model can be split over a number of ranks, before anything is loaded.

mlx-lm accepts some splits in silence that fail at the first step, like nine heads over two ranks.
The check therefore shards an unevaluated model for a group that does not exist, and compares every
count and every shape with those before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from pomona.errors import ModelUnsupportedError
from pomona_stage_worker.sharding.shard import Ranks, can_shard, shard_model

KEY_VALUE_HEADS: Final = ("n_kv_heads", "num_kv_heads", "num_key_value_heads")
COUNTS: Final = {
    **dict.fromkeys(("n_heads", "num_heads", "num_attention_heads"), "attention heads"),
    **dict.fromkeys(KEY_VALUE_HEADS, "key-value heads"),
    "num_k_heads": "key heads of linear attention",
    "num_v_heads": "value heads of linear attention",
    "index_n_heads": "index heads",
    "o_groups": "output groups",
}
"""Attributes of mlx-lm's attention layers, and what they count."""
INNER: Final = ("down_proj", "w2", "o_proj", "out_proj")
"""Matrices whose inputs are split, so that their quantisation groups are too."""


class ShardingError(ModelUnsupportedError):
    """A model cannot be split over the ranks of a group.

    Attributes:
        size: number of ranks.
        reason: why.
    """

    def __init__(self, size: int, reason: str) -> None:
        self.size = size
        self.reason = reason
        super().__init__(f"the model cannot be split over {size} ranks: {reason}")


def check_shardable(make_model: Callable[[], nn.Module], size: int) -> None:
    """Checks a split of a model whose weights may be lazy, or not loaded yet.

    Args:
        make_model: builds the model; its result is changed.

    Raises:
        ShardingError: the split is not possible; it has the reason.
    """
    reason = refusal(make_model(), size)
    if reason is not None:
        raise ShardingError(size, reason)


def refusal(model: nn.Module, size: int) -> str | None:
    """Returns why ``model`` cannot be split over ``size`` ranks; None if it can.

    Shards the model for a group that does not exist; discard it afterwards.
    """
    if size < 1:
        return "a group has at least one rank"
    if size == 1:
        return None
    if not can_shard(model):
        return f"mlx-lm cannot shard the family {model.__class__.__module__.rpartition('.')[2]}"
    uneven = next(_uneven_parts(model, size), None)
    counts, sizes = _counts(model), _sizes(model)
    try:
        shard_model(model, Ranks(size, size - 1))
    except Exception as error:  # a family may raise anything
        return uneven or f"mlx-lm refuses: {' '.join(str(error).split())[:300]}"
    repeated: set[int] = set()
    after = _counts(model)
    for name, before in counts.items():
        part = after.get(name, before)
        noun = COUNTS.get(name.rpartition(".")[2])
        if part in (before, before / size) or noun is None:
            continue
        # Some families repeat key-value heads for more ranks than there are heads.
        if noun == "key-value heads" and part == 1 and size % before == 0:
            repeated.add(before)
            continue
        return f"{before} {noun} are not divisible by {size}"
    parts = _sizes(model)
    for name, before in sizes.items():
        part = parts.get(name, before)
        if part in (before, before / size) or part in (before / heads for heads in repeated):
            continue
        return f"{name} of {before} elements becomes {part}, which is not a part of {size}"
    return None


def _uneven_parts(model: nn.Module, size: int) -> Iterator[str]:
    """Yields what does not divide evenly, for the case that mlx-lm refuses."""
    for name, count in _counts(model).items():
        noun = COUNTS.get(name.rpartition(".")[2])
        if noun is not None and count % size:
            yield f"{count} {noun} are not divisible by {size}"
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        weight: Any = getattr(module, "weight", None)
        if last not in INNER or not isinstance(weight, mx.array):
            continue
        groups: Any = getattr(module, "group_size", 0) if hasattr(module, "scales") else 0
        inputs = weight.shape[-1]
        if groups:
            inputs = inputs * 32 // int(cast("Any", module).bits)
        what = "intermediate size" if last in ("down_proj", "w2") else "width of all heads"
        if inputs % size:
            yield f"the {what} {inputs} of {last} is not divisible by {size}"
        elif groups and inputs // groups % size:
            yield (
                f"the {inputs // groups} quantisation groups of {groups} in a row of {last} are "
                f"not divisible by {size}"
            )


def _counts(model: nn.Module) -> dict[str, int]:
    """Returns the whole numbers among the attributes of all modules, by dotted name."""
    return {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int) and not isinstance(value, bool)
    }


def _sizes(model: nn.Module) -> Mapping[str, int]:
    """Returns the elements of each parameter."""
    parameters = cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))
    return {name: array.size for name, array in parameters}
