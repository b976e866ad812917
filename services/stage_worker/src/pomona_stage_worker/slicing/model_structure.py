"""What there is to know about a model in order to cut it."""

from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn

from pomona_stage_worker.slicing.errors import IllegalCutError
from pomona_stage_worker.slicing.layer_proxies import LayerSites, remembering
from pomona_stage_worker.slicing.phantom_caches import Effect
from pomona_stage_worker.slicing.tracer import (
    AFTER,
    BEFORE,
    BETWEEN,
    LayerRecord,
    Tracer,
    Untraceable,
    step_axis,
)
from pomona_stage_worker.slicing.tree_utils import Path, arrays_of, leaves, modules_in

# The lengths of the passes. The first two differ, so that a dimension that follows the step
# is told from one that follows the history; the third reads what only decoding reads. The
# longer set is for models that keep nothing of a short prompt (deepseek_v41 compresses
# groups of up to 128 positions).
_SHORT, _LONG = (2, 3, 1), (256, 257, 1)


@dataclass(frozen=True)
class Crossing:
    """One array that crosses a cut, and every place in a layer's arguments it is taken in.

    The first place is where the stage before finds it.
    """

    places: tuple[tuple[int, Path], ...]


class ModelStructure:
    """How the layers of a model hang together.

    Attributes:
        layer_count: number of layers.
        why_whole: why the model cannot be cut at all, or None.
        boundaries: for each legal cut the arrays that cross it, in the order they are sent.
        effects: for each layer what it does to which leaf caches.
        handed_on: which argument of a layer takes which element of what the one before it
            returned; element 0 stands for a result that is no tuple.
        returns: for each layer how many elements it returns; None when no tuple.
        last_axes: where in what the last layer returns the positions of a step lie.
        last_suffices: the code after the layers works on the last position alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.sites = LayerSites(model)
        self.layer_count = len(self.sites.layers)
        self.why_whole: str | None = None
        self.boundaries: dict[int, list[Crossing]] = {}
        self.effects: list[dict[int, Effect]] = []
        self.handed_on: dict[int, int | str] = {}
        self.returns: list[int | None] = []
        self.last_axes: dict[Path, int] = {}
        self.last_suffices = False
        self._cache_users: dict[int, set[int]] = {}
        self._reads: dict[tuple[int, str], set[str | int]] = {}
        with remembering([module for _, module in modules_in(model)]):
            try:
                self._learn(model)
            except Untraceable as reason:
                self.why_whole = str(reason)
            except Exception as failure:  # whatever a model raises when it is run
                self.why_whole = f"it cannot run a prompt: {failure}"

    def check(self, start: int, stop: int) -> None:
        """Raises IllegalCutError unless `[start, stop)` can be a stage."""
        ends = {0, self.layer_count, *self.boundaries}
        if not (start < stop and start in ends and stop in ends):
            legal = sorted(self.boundaries)
            raise IllegalCutError(start, stop, self.layer_count, legal, self.why_whole)

    def foreign_leaves(self, start: int, stop: int) -> set[int]:
        """The leaf caches that are phantoms in the stage `[start, stop)`. Those that no layer
        uses are not: the model fills them from the tokens, on every stage."""
        return {
            leaf
            for leaf, users in self._cache_users.items()
            if not any(start <= user < stop for user in users)
        }

    def parameters(self, model: nn.Module, start: int, stop: int) -> set[str]:
        """The dotted names of the parameters that the stage `[start, stop)` needs."""
        readers: set[str | int] = {BETWEEN, *range(start, stop)}
        readers |= {BEFORE} if start == 0 else set()
        readers |= {AFTER} if stop == self.layer_count else set()
        inside = {
            id(module) for layer in self.sites.layers[start:stop] for _, module in modules_in(layer)
        }
        wanted: dict[int, set[str]] = {}
        for (module_id, key), by in self._reads.items():
            if by & readers:
                wanted.setdefault(module_id, set()).add(key)
        names: set[str] = set()
        for prefix, module in modules_in(model):
            read = wanted.get(id(module), set())
            # A simple module, such as a linear layer, is needed whole when any of it is.
            whole = self.why_whole is not None or id(module) in inside
            whole = whole or (bool(read) and sum(1 for _ in modules_in(module)) == 1)
            names |= {
                f"{prefix}.{name}" if prefix else name
                for key, name in arrays_of(module)
                if whole or key in read
            }
        return names

    def _learn(self, model: nn.Module) -> None:
        for lengths in (_SHORT, _LONG):
            with closing(Tracer(model, self.sites, lengths)) as watch:
                if lengths is _LONG or not any(map(_unresolved, watch.passes[:2])):
                    self._judge(watch, lengths)
                    return

    def _judge(self, watch: Tracer, lengths: tuple[int, ...]) -> None:
        first, second = watch.passes[0], watch.passes[1]
        self.last_axes = watch.last_axes
        self.last_suffices = watch.last_suffices
        self._cache_users = watch.cache_users
        self._reads = watch.reads
        self.effects = [record.effects for record in second]
        self.returns = [
            len(record.returned) if isinstance(record.returned, tuple) else None
            for record in second
        ]
        self.handed_on = _handed_on(second, watch)
        for before, record in enumerate(second[1:]):
            argument = self.handed_on.get(0)
            if argument is None or record.makers.get((argument,)) != before:
                raise Untraceable("what a layer returns is not what the next layer is given")
        for cut in range(1, self.layer_count):
            crossing = self._crossing(cut, first, second, lengths)
            if crossing is not None:
                self.boundaries[cut] = crossing
        if not self.boundaries and self.layer_count > 1:
            raise Untraceable("its layers share keys and values across every cut")

    def _crossing(
        self,
        cut: int,
        first: list[LayerRecord],
        second: list[LayerRecord],
        lengths: tuple[int, ...],
    ) -> list[Crossing] | None:
        """What crosses the cut before layer `cut`; None if the cut is illegal.

        Arrays that a layer made cross whatever they are, but must follow the step: to send
        the keys of the whole history at every step is no way to run. Of those that were
        made before the layers, the floating ones cross (the embedding is made of
        parameters); masks and positions each stage makes for itself, from its phantoms.
        """
        if any(min(users) < cut <= max(users) for users in self._cache_users.values()):
            return None
        places: dict[int, list[tuple[int, Path]]] = {}
        for layer in range(cut, self.layer_count):
            record = second[layer]
            for path, array in record.given.items():
                maker = record.makers[path]
                if maker >= cut:
                    continue
                follows = array is not None and (
                    step_axis(first[layer].given.get(path), array, lengths) is not None
                )
                if maker >= 0:
                    if array is None or not follows:
                        return None
                elif array is None or not follows or not _is_activation(array):
                    continue
                places.setdefault(id(array), []).append((layer, path))
        return [Crossing(tuple(found)) for found in places.values()]


def _is_activation(array: mx.array) -> bool:
    return array.ndim >= 3 and mx.issubdtype(array.dtype, mx.floating)


def _unresolved(records: list[LayerRecord]) -> bool:
    """Whether a layer looked for something that an earlier one had not got yet."""
    return any(
        array is None and record.makers[path] >= 0
        for record in records
        for path, array in record.given.items()
    )


def _handed_on(records: list[LayerRecord], watch: Tracer) -> dict[int, int | str]:
    """Which argument takes which element of what the layer before returned."""
    found: dict[int, int | str] = {}
    for before, after in pairwise(records):
        result = before.returned
        for index, element in enumerate(result if isinstance(result, tuple) else (result,)):
            made = {id(array) for _, array in leaves(element, watch.opaque)}
            for key, argument in after.arguments.items():
                taken = {id(array) for _, array in leaves(argument, watch.opaque)}
                if index not in found and made & taken:
                    found[index] = key
    return found
