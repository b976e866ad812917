"""Decides whether a model may be cut before a layer, and which arrays cross the cut.

The planner has the same rule in terms of config.json: `pomona.models.legal_cuts`.
"""

from dataclasses import dataclass

import mlx.core as mx

from pomona_stage_worker.slicing.tracer import NO_LAYER, Tracer, step_axis
from pomona_stage_worker.slicing.tree_utils import Path


@dataclass(frozen=True)
class Crossing:
    """One array that crosses a cut.

    Attributes:
        places: every (layer, path in its arguments) that takes the array. The stage before the
            cut reads it at the first place.
    """

    places: tuple[tuple[int, Path], ...]


def arrays_crossing(cut: int, tracer: Tracer, lengths: tuple[int, ...]) -> list[Crossing] | None:
    """Returns the arrays that cross the cut before layer `cut`; None if the cut is illegal.

    A cut is illegal when layers on both sides use one cache, or when a layer behind it reads an
    array made before it that does not follow the step: sending keys of the whole history at every
    step is too slow. Of the arrays made before all layers only floating ones cross, since they
    derive from the embedding; each stage makes masks and positions itself from its phantoms.

    Args:
        lengths: tokens of the traced passes.
    """
    if any(min(users) < cut <= max(users) for users in tracer.cache_users.values()):
        return None
    first, second = tracer.passes[0], tracer.passes[1]
    places: dict[int, list[tuple[int, Path]]] = {}
    for layer in range(cut, len(second)):
        record = second[layer]
        for path, array in record.given.items():
            maker = record.makers[path]
            if maker >= cut:
                continue
            follows = array is not None and (
                step_axis(first[layer].given.get(path), array, lengths) is not None
            )
            if maker != NO_LAYER:
                if array is None or not follows:
                    return None
            elif array is None or not follows or not _is_activation(array):
                continue
            places.setdefault(id(array), []).append((layer, path))
    return [Crossing(tuple(found)) for found in places.values()]


def _is_activation(array: mx.array) -> bool:
    return array.ndim >= 3 and mx.issubdtype(array.dtype, mx.floating)
