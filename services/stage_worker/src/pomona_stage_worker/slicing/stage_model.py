"""A contiguous range of a model's layers, run with the model's own forward pass."""

from collections.abc import Callable
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from pomona_stage_worker.slicing.errors import ActivationsError
from pomona_stage_worker.slicing.layer_proxies import LayerProxy
from pomona_stage_worker.slicing.model_structure import Crossing, ModelStructure
from pomona_stage_worker.slicing.phantom_caches import (
    advance,
    copy_state,
    kind_of,
    leaf_caches,
    share_offsets,
    state_arrays,
)
from pomona_stage_worker.slicing.tracer import has_body, last_position, run_body, run_model
from pomona_stage_worker.slicing.tree_utils import lookup, replaced

Activations = mx.array | tuple[mx.array, ...]
Logits = Literal["all", "last", "none", "hidden"]


class StageModel:
    """The layers `[start, stop)` of a model.

    The model itself is not changed: during a call, others stand in for its layers. One that
    another stage owns becomes a phantom, which hands on what it is given and advances its
    caches by entries of no size. The first owned layer takes the activations that arrived in
    place of what the model made, which is then never evaluated; neither is what the model
    makes of the output of the last owned layer, unless this is the tail.

    Several stages may be cut from one model object, but only one at a time may run, and none
    while the model is being looked at.
    Quantise a model before cutting it; its weights may be loaded before or after.

    Attributes:
        start, stop: the range of layers.
        layer_count: the number of layers of the whole model.
        is_head, is_tail: whether the stage begins or ends the pipeline.
        has_body: whether the model can be run without its vocabulary head.
    """

    def __init__(self, model: nn.Module, anatomy: ModelStructure, start: int, stop: int) -> None:
        anatomy.check(start, stop)
        self.model = model
        self.start = start
        self.stop = stop
        self.layer_count = anatomy.layer_count
        self.is_head = start == 0
        self.is_tail = stop == anatomy.layer_count
        self.has_body = has_body(model)
        self._anatomy = anatomy
        self._arriving: list[Crossing] = anatomy.boundaries.get(start, [])
        self._leaving: list[Crossing] = anatomy.boundaries.get(stop, [])
        # What was made before the layers for layers of both this and later stages, or for
        # later ones alone, is passed on as it arrived.
        self._relayed = {
            leaving: arriving
            for leaving, on in enumerate(self._leaving)
            for arriving, arrived in enumerate(self._arriving)
            if on.places[0] in arrived.places
        }
        self._foreign = anatomy.foreign_leaves(start, stop)
        leaves = list(leaf_caches(self.make_cache()))
        self._kinds = [kind_of(leaf) for _, leaf in leaves]
        owned = {entry for i, (entry, _) in enumerate(leaves) if i not in self._foreign}
        self._owned_entries = sorted(owned)
        self._stand_ins = self._make_stand_ins()
        self._step = _Step((), [], 0, 0)

    def make_cache(self) -> list[Any]:
        """New caches, one for each entry of the model's own list, phantom or real."""
        return make_prompt_cache(self.model)

    def owned_caches(self, cache: list[Any]) -> list[Any]:
        """The entries that hold state of this stage: those to evaluate after a call, with
        `mx.eval([c.state for c in ...])`, and those whose bytes count."""
        return [cache[entry] for entry in self._owned_entries]

    def __call__(
        self,
        tokens: mx.array,
        activations: Activations | None,
        cache: list[Any],
        *,
        logits: Logits = "all",
    ) -> Any:
        """Run one step of the stage over its caches, lazily.

        Args:
            tokens: ids of this step, shape (batch, length), an integer dtype. Every stage
                is given them; only the head reads the embedding.
            activations: what the stage before returned; None at the head.
            cache: a list from `make_cache`, or one merged from several by mlx-lm's `merge`.
            logits: at the tail, which positions to apply the vocabulary head to; "hidden"
                for what it would be applied to at the last one.

        Returns:
            What to give the next stage: an array, or a tuple of them. At the tail the
            logits, shape (batch, length, vocabulary), with length 1 for "last"; for "hidden"
            (batch, 1, hidden_size); for "none" None, and only the caches are left to evaluate.

        Raises:
            ActivationsError: when `activations` are not what the first layer takes.
        """
        arrived = () if activations is None else activations
        arrived = arrived if isinstance(arrived, tuple) else (arrived,)
        if len(arrived) != len(self._arriving):
            raise ActivationsError(self.start, len(self._arriving), len(arrived))
        leaves = [leaf for _, leaf in leaf_caches(cache)]
        batch, length = tokens.shape
        self._step = step = _Step(arrived, leaves, batch, length, logits)
        try:
            with self._anatomy.sites.replaced_by(self._stand_ins):
                run = run_body if self.is_tail and logits == "hidden" else run_model
                output = run(self.model, tokens, cache)
        finally:
            self._step = _Step((), [], 0, 0)
        share_offsets(leaves)

        if self.is_tail:
            if logits == "none":
                return None
            if logits in ("last", "hidden") and not self._anatomy.last_suffices:
                output = output[:, -1:]
            return mx.depends([output], step.pending())[0]
        for leaving, arriving in self._relayed.items():
            step.find(leaving, step.arrived[arriving])
        sent = mx.depends([step.found[i] for i in range(len(self._leaving))], step.pending())
        return sent[0] if len(sent) == 1 else tuple(sent)

    # ---- the stand-ins

    def _make_stand_ins(self) -> dict[int, LayerProxy]:
        taking: dict[int, list[tuple[int, Any]]] = {}
        for index, crossing in enumerate(self._arriving):
            for layer, path in crossing.places:
                taking.setdefault(layer, []).append((index, path))
        finding: dict[int, list[tuple[int, Any]]] = {}
        for index, crossing in enumerate(self._leaving):
            if index not in self._relayed:
                layer, path = crossing.places[0]
                finding.setdefault(layer, []).append((index, path))

        stand_ins: dict[int, LayerProxy] = {}
        for index, layer in enumerate(self._anatomy.sites.layers):
            if not self.start <= index < self.stop:
                call = self._phantom(index, finding.get(index, []))
            elif index in taking or (index == self.layer_count - 1 and self._anatomy.last_suffices):
                call = self._owned(index, layer, taking.get(index, []))
            else:
                continue
            stand_ins[index] = LayerProxy(layer, call)
        return stand_ins

    def _phantom(self, index: int, finding: list[tuple[int, Any]]) -> Callable[..., Any]:
        effects = self._anatomy.effects[index]
        count = self._anatomy.returns[index]
        handed_on = [self._anatomy.handed_on.get(i) for i in range(count or 1)]

        def call(*args: Any, **kwargs: Any) -> Any:
            arguments: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
            step = self._step
            for crossing, path in finding:
                step.find(crossing, lookup(arguments, path))
            for leaf, effect in effects.items():
                step.advance(leaf, (effect, self._kinds[leaf]))
            result = tuple(None if key is None else arguments.get(key) for key in handed_on)
            return result[0] if count is None else result

        return call

    def _owned(
        self, index: int, layer: nn.Module, taking: list[tuple[int, Any]]
    ) -> Callable[..., Any]:
        is_last = index == self.layer_count - 1

        def call(*args: Any, **kwargs: Any) -> Any:
            arguments: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
            step = self._step
            for crossing, path in taking:
                if step.arrived[crossing].size:  # else it stands for one that was not there
                    arguments = replaced(arguments, path, mx.array(step.arrived[crossing]))
            result = layer(  # type: ignore[operator]  # Module declares no __call__
                *(arguments[i] for i in range(len(args))), **{k: arguments[k] for k in kwargs}
            )
            if is_last and step.logits in ("last", "hidden"):
                return last_position(result, self._anatomy.last_axes)
            return result

        return call


class _Step:
    """One call of a stage: what arrived, what was found to pass on, which phantoms advanced."""

    def __init__(
        self,
        arrived: tuple[mx.array, ...],
        leaves: list[Any],
        batch: int,
        length: int,
        logits: Logits = "all",
    ) -> None:
        self.arrived = arrived
        self.found: dict[int, mx.array] = {}
        self.logits: Logits = logits
        self._leaves = leaves
        self._batch = batch
        self._length = length
        self._leaders: dict[Any, Any] = {}

    def find(self, crossing: int, array: mx.array | None) -> None:
        """Keep an array to pass on; one of no elements stands for one that is not there. It
        becomes an object of its own, because some models change arrays in place (gemma3n)."""
        self.found[crossing] = mx.zeros((0,)) if array is None else mx.array(array)

    def advance(self, index: int, kind: tuple[Any, Any]) -> None:
        """Advance a phantom: by mlx-lm when it is the first of its kind, else by copying."""
        leaf = self._leaves[index]
        if kind in self._leaders:
            copy_state(self._leaders[kind], leaf)
        else:
            advance(leaf, kind[0], self._batch, self._length)
            self._leaders[kind] = leaf

    def pending(self) -> list[mx.array]:
        """The arrays of the phantoms, to be evaluated with the output: left alone, they
        would remember every step since the first."""
        return [array for leaf in self._leaders.values() for array in state_arrays(leaf)]
