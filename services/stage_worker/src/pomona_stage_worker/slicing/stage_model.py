"""Runs a contiguous range of a model's layers with the model's own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from pomona_stage_worker.slicing.errors import ActivationsError
from pomona_stage_worker.slicing.layer_proxies import LayerProxy
from pomona_stage_worker.slicing.legal_cuts import Crossing
from pomona_stage_worker.slicing.model_structure import ModelStructure
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

    The model is not changed: proxies replace its layers during a call. A layer of another stage
    becomes a phantom: it returns its input and advances its caches by entries of size zero. The
    first owned layer receives the activations from the stage before instead of its own input,
    which is then never evaluated. Code after the last owned layer is evaluated on the tail only.

    Several stages may be cut from one model object. Only one may run at a time, and none while
    the model is traced. Quantise a model before cutting it; load its weights before or after.

    Attributes:
        start, stop: the range of layers.
        layer_count: the number of layers of the whole model.
        is_head, is_tail: whether the stage begins or ends the pipeline.
        has_body: whether the model can run without its vocabulary head.
    """

    def __init__(self, model: nn.Module, structure: ModelStructure, start: int, stop: int) -> None:
        structure.check(start, stop)
        self.model = model
        self.start = start
        self.stop = stop
        self.layer_count = structure.layer_count
        self.is_head = start == 0
        self.is_tail = stop == structure.layer_count
        self.has_body = has_body(model)
        self._structure = structure
        self._arriving: list[Crossing] = structure.boundaries.get(start, [])
        self._leaving: list[Crossing] = structure.boundaries.get(stop, [])
        # Arrays made before the layers that later stages also read are passed on unchanged.
        self._relayed = {
            leaving: arriving
            for leaving, on in enumerate(self._leaving)
            for arriving, arrived in enumerate(self._arriving)
            if on.places[0] in arrived.places
        }
        self._foreign = structure.foreign_leaves(start, stop)
        leaves = list(leaf_caches(self.make_cache()))
        self._kinds = [kind_of(leaf) for _, leaf in leaves]
        owned = {entry for i, (entry, _) in enumerate(leaves) if i not in self._foreign}
        self._owned_entries = sorted(owned)
        self._call = _Call()
        self._proxies = self._make_proxies()

    def make_cache(self) -> list[Any]:
        """Creates one cache for each entry of the model's own list, phantom or real."""
        return make_prompt_cache(self.model)

    def stage_before(self) -> StageModel:
        """Returns the stage of all layers before this one; this one must not be the head."""
        return StageModel(self.model, self._structure, 0, self.start)

    def owned_caches(self, cache: list[Any]) -> list[Any]:
        """Returns the entries that hold state of this stage.

        Evaluate `[c.state for c in ...]` of these after a call; their bytes count as KV memory.
        """
        return [cache[entry] for entry in self._owned_entries]

    def __call__(
        self,
        tokens: mx.array,
        activations: Activations | None,
        cache: list[Any],
        *,
        logits: Logits = "all",
    ) -> Any:
        """Builds the graph of one step over the stage's caches; evaluates nothing.

        Args:
            tokens: ids of this step, shape (batch, length), an integer dtype. Every stage takes
                them; only the head reads the embedding.
            activations: result of the stage before; None at the head.
            cache: a list from `make_cache`, or several merged by mlx-lm's `merge`.
            logits: positions to apply the vocabulary head to, on the tail; "hidden" returns its
                input at the last position instead.

        Returns:
            Activations for the next stage: an array, or a tuple of arrays. On the tail, logits of
            shape (batch, length, vocabulary), with length 1 for "last"; (batch, 1, hidden_size)
            for "hidden"; None for "none", which leaves only the caches to evaluate.

        Raises:
            ActivationsError: `activations` has another number of arrays than cross `start`.
        """
        arrived = () if activations is None else activations
        arrived = arrived if isinstance(arrived, tuple) else (arrived,)
        if len(arrived) != len(self._arriving):
            raise ActivationsError(self.start, len(self._arriving), len(arrived))
        leaves = [leaf for _, leaf in leaf_caches(cache)]
        batch, length = tokens.shape
        self._call.step = step = _Step(arrived, leaves, batch, length, logits)
        try:
            with self._structure.sites.replaced_by(self._proxies):
                run = run_body if self.is_tail and logits == "hidden" else run_model
                output = run(self.model, tokens, cache)
        finally:
            self._call.step = NO_STEP
        share_offsets(leaves)

        if self.is_tail:
            if logits == "none":
                return None
            if logits in ("last", "hidden") and not self._structure.last_suffices:
                output = output[:, -1:]
            return mx.depends([output], step.pending())[0]
        for leaving, arriving in self._relayed.items():
            step.capture(leaving, step.arrived[arriving])
        sent = mx.depends([step.captured[i] for i in range(len(self._leaving))], step.pending())
        return sent[0] if len(sent) == 1 else tuple(sent)

    def _make_proxies(self) -> dict[int, LayerProxy]:
        received: dict[int, list[tuple[int, Any]]] = {}
        for index, crossing in enumerate(self._arriving):
            for layer, path in crossing.places:
                received.setdefault(layer, []).append((index, path))
        captures: dict[int, list[tuple[int, Any]]] = {}
        for index, crossing in enumerate(self._leaving):
            if index not in self._relayed:
                layer, path = crossing.places[0]
                captures.setdefault(layer, []).append((index, path))

        proxies: dict[int, LayerProxy] = {}
        for index, layer in enumerate(self._structure.sites.layers):
            if not self.start <= index < self.stop:
                call = _phantom(
                    self._call, self._structure, self._kinds, index, captures.get(index, [])
                )
            elif index in received or (
                index == self.layer_count - 1 and self._structure.last_suffices
            ):
                call = _owned(self._call, self._structure, layer, index, received.get(index, []))
            else:
                continue
            proxies[index] = LayerProxy(layer, call)
        return proxies


class _Step:
    """State of one call: arrays received, arrays to send, phantoms advanced."""

    def __init__(
        self,
        arrived: tuple[mx.array, ...],
        leaves: list[Any],
        batch: int,
        length: int,
        logits: Logits = "all",
    ) -> None:
        self.arrived = arrived
        self.captured: dict[int, mx.array] = {}
        self.logits: Logits = logits
        self._leaves = leaves
        self._batch = batch
        self._length = length
        self._leaders: dict[Any, Any] = {}

    def capture(self, crossing: int, array: mx.array | None) -> None:
        """Stores an array to send; an empty array stands for an absent one.

        The array becomes a new object, because some models change arrays in place (gemma3n).
        """
        self.captured[crossing] = mx.zeros((0,)) if array is None else mx.array(array)

    def advance(self, index: int, kind: tuple[Any, Any]) -> None:
        """Advances a phantom: the first of its kind through mlx-lm, the others by copying."""
        leaf = self._leaves[index]
        if kind in self._leaders:
            copy_state(self._leaders[kind], leaf)
        else:
            advance(leaf, kind[0], self._batch, self._length)
            self._leaders[kind] = leaf

    def pending(self) -> list[mx.array]:
        """Returns the phantoms' arrays, to be evaluated with the output.

        Unevaluated, they would keep the graph of every step since the first.
        """
        return [array for leaf in self._leaders.values() for array in state_arrays(leaf)]


NO_STEP = _Step((), [], 0, 0)


class _Call:
    """The step that the proxies run.

    Proxies refer to this object rather than to the stage that keeps them: a reference cycle would
    keep the stage's weights until the garbage collector runs.
    """

    def __init__(self) -> None:
        self.step = NO_STEP


def _phantom(
    current: _Call,
    structure: ModelStructure,
    kinds: list[tuple[Any, ...]],
    index: int,
    captures: list[tuple[int, Any]],
) -> Callable[..., Any]:
    """Returns the call that replaces a layer of another stage."""
    effects = structure.effects[index]
    count = structure.returns[index]
    passthrough = [structure.passthrough.get(i) for i in range(count or 1)]

    def call(*args: Any, **kwargs: Any) -> Any:
        arguments: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
        step = current.step
        for crossing, path in captures:
            step.capture(crossing, lookup(arguments, path))
        for leaf, effect in effects.items():
            step.advance(leaf, (effect, kinds[leaf]))
        result = tuple(None if key is None else arguments.get(key) for key in passthrough)
        return result[0] if count is None else result

    return call


def _owned(
    current: _Call,
    structure: ModelStructure,
    layer: nn.Module,
    index: int,
    received: list[tuple[int, Any]],
) -> Callable[..., Any]:
    """Returns the call that replaces a layer of this stage at its ends."""
    is_last = index == structure.layer_count - 1

    def call(*args: Any, **kwargs: Any) -> Any:
        arguments: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
        step = current.step
        for crossing, path in received:
            if step.arrived[crossing].size:  # an empty array stands for an absent one
                arguments = replaced(arguments, path, mx.array(step.arrived[crossing]))
        result = layer(  # type: ignore[operator]  # Module declares no __call__
            *(arguments[i] for i in range(len(args))), **{k: arguments[k] for k in kwargs}
        )
        if is_last and step.logits in ("last", "hidden"):
            return last_position(result, structure.last_axes)
        return result

    return call
