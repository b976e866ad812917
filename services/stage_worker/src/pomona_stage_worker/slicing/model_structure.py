"""Derives from a traced forward pass how a model's layers depend on each other."""

from contextlib import closing
from itertools import pairwise

import mlx.nn as nn

from pomona_stage_worker.slicing.errors import IllegalCutError
from pomona_stage_worker.slicing.layer_proxies import LayerSites, restored_after
from pomona_stage_worker.slicing.legal_cuts import Crossing, arrays_crossing
from pomona_stage_worker.slicing.phantom_caches import Effect
from pomona_stage_worker.slicing.tracer import (
    AFTER,
    BEFORE,
    BETWEEN,
    LayerRecord,
    Tracer,
    Untraceable,
)
from pomona_stage_worker.slicing.tree_utils import Path, arrays_of, leaves, modules_in

# Tokens of each traced pass. The first two lengths differ to distinguish a dimension that
# follows the step from one that follows the history; the third pass takes the decode path. The
# long set is for models that cache nothing of a short prompt (deepseek_v41 compresses groups of
# up to 128 positions).
_SHORT, _LONG = (2, 3, 1), (256, 257, 1)


class ModelStructure:
    """Dependencies between the layers of one model.

    Attributes:
        layer_count: number of layers.
        uncuttable_reason: reason why the model has no legal cut, or None.
        boundaries: legal cut -> arrays that cross it, in the order they are sent.
        effects: per layer, its effect on each leaf cache it uses.
        passthrough: element of a layer's result -> argument of the next layer that takes it;
            element 0 also stands for a result that is not a tuple.
        returns: per layer, the number of elements it returns; None for a single value.
        last_axes: path in the last layer's result -> axis of the positions of a step.
        last_suffices: the code after the layers runs on the last position alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.sites = LayerSites(model)
        self.layer_count = len(self.sites.layers)
        self.uncuttable_reason: str | None = None
        self.boundaries: dict[int, list[Crossing]] = {}
        self.effects: list[dict[int, Effect]] = []
        self.passthrough: dict[int, int | str] = {}
        self.returns: list[int | None] = []
        self.last_axes: dict[Path, int] = {}
        self.last_suffices = False
        self._cache_users: dict[int, set[int]] = {}
        self._reads: dict[tuple[int, str], set[str | int]] = {}
        with restored_after([module for _, module in modules_in(model)]):
            try:
                self._trace(model)
            except Untraceable as reason:
                self.uncuttable_reason = str(reason)
            except Exception as failure:  # a model may raise anything
                self.uncuttable_reason = f"its forward pass fails: {failure}"

    def check(self, start: int, stop: int) -> None:
        """Raises IllegalCutError unless `[start, stop)` is bounded by legal cuts."""
        ends = {0, self.layer_count, *self.boundaries}
        if not (start < stop and start in ends and stop in ends):
            legal = sorted(self.boundaries)
            raise IllegalCutError(start, stop, self.layer_count, legal, self.uncuttable_reason)

    def foreign_leaves(self, start: int, stop: int) -> set[int]:
        """Returns the leaf caches that are phantoms in the stage `[start, stop)`.

        Caches that no layer uses stay real: the model fills them from the tokens on every stage.
        """
        return {
            leaf
            for leaf, users in self._cache_users.items()
            if not any(start <= user < stop for user in users)
        }

    def parameters(self, model: nn.Module, start: int, stop: int) -> set[str]:
        """Returns the dotted names of the parameters that the stage `[start, stop)` reads."""
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
            # A leaf module, such as a linear layer, is owned whole when any of it is read.
            whole = self.uncuttable_reason is not None or id(module) in inside
            whole = whole or (bool(read) and sum(1 for _ in modules_in(module)) == 1)
            names |= {
                f"{prefix}.{name}" if prefix else name
                for key, name in arrays_of(module)
                if whole or key in read
            }
        return names

    def _trace(self, model: nn.Module) -> None:
        for lengths in (_SHORT, _LONG):
            with closing(Tracer(model, self.sites, lengths)) as tracer:
                if lengths is _LONG or not any(map(_unresolved, tracer.passes[:2])):
                    self._analyze(tracer, lengths)
                    return

    def _analyze(self, tracer: Tracer, lengths: tuple[int, ...]) -> None:
        second = tracer.passes[1]
        self.last_axes = tracer.last_axes
        self.last_suffices = tracer.last_suffices
        self._cache_users = tracer.cache_users
        self._reads = tracer.reads
        self.effects = [record.effects for record in second]
        self.returns = [
            len(record.returned) if isinstance(record.returned, tuple) else None
            for record in second
        ]
        self.passthrough = _passthrough(second, tracer)
        for before, record in enumerate(second[1:]):
            argument = self.passthrough.get(0)
            if argument is None or record.makers.get((argument,)) != before:
                raise Untraceable("a layer's result is not the next layer's input")
        for cut in range(1, self.layer_count):
            crossing = arrays_crossing(cut, tracer, lengths)
            if crossing is not None:
                self.boundaries[cut] = crossing
        if not self.boundaries and self.layer_count > 1:
            raise Untraceable("its layers share keys and values across every cut")


def _unresolved(records: list[LayerRecord]) -> bool:
    """Returns whether a layer read an entry that an earlier layer had not set yet."""
    return any(
        array is None and record.makers[path] >= 0
        for record in records
        for path, array in record.given.items()
    )


def _passthrough(records: list[LayerRecord], tracer: Tracer) -> dict[int, int | str]:
    """Maps each element of a layer's result to the argument of the next layer that takes it."""
    found: dict[int, int | str] = {}
    for before, after in pairwise(records):
        result = before.returned
        for index, element in enumerate(result if isinstance(result, tuple) else (result,)):
            made = {id(array) for _, array in leaves(element, tracer.opaque)}
            for key, argument in after.arguments.items():
                taken = {id(array) for _, array in leaves(argument, tracer.opaque)}
                if index not in found and made & taken:
                    found[index] = key
    return found
