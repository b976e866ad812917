"""Traces forward passes of a model without evaluating them.

MLX builds a graph and computes nothing until `mx.eval`, so a traced pass costs a few
milliseconds and no memory, for any model size and with or without loaded weights. A few passes
over the same caches record

- the order of layer calls, and the arguments of each layer that an earlier layer or the
  embedding made: these arrays cross a cut;
- the effect of each layer on its caches, which phantoms repeat;
- the parameters read before, by and after the layers.

No model family is known by name.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import ArraysCache, make_prompt_cache

from pomona_stage_worker.slicing.layer_proxies import LayerProxy, LayerSites
from pomona_stage_worker.slicing.phantom_caches import Effect, effect_of, leaf_caches
from pomona_stage_worker.slicing.tree_utils import Path, leaves, lookup, modules_in, replaced

# Reader of a parameter: code before the layers, a layer index, code between or after layers.
BEFORE, AFTER, BETWEEN = "before", "after", "between"
Reader = str | int
# Maker of an array that no layer made.
NO_LAYER = -1


class Untraceable(Exception):
    """The model cannot be cut; the message gives the reason."""


@dataclass
class LayerRecord:
    """Record of one layer's call in one pass.

    Attributes:
        given: arrays among its arguments; None for an entry it read that was absent.
        makers: path in `given` -> layer that made the array, or `NO_LAYER`.
        arguments: the arguments as passed.
        returned: the result.
        effects: index of a leaf cache -> effect on it.
    """

    given: dict[Path, mx.array | None] = field(default_factory=dict[Path, "mx.array | None"])
    makers: dict[Path, int] = field(default_factory=dict[Path, int])
    arguments: dict[int | str, Any] = field(default_factory=dict[int | str, Any])
    returned: Any = None
    effects: dict[int, Effect] = field(default_factory=dict[int, Effect])


class _ReadsNoted(dict[Any, Any]):
    """Shared dictionary that records which keys a layer reads without having written them."""

    def __init__(self, items: dict[Any, Any]) -> None:
        super().__init__(items)
        self.reads: list[Any] = []
        self.writes: set[Any] = set()

    def __getitem__(self, key: Any) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.writes.add(key)
        super().__setitem__(key, value)

    def _note(self, key: Any) -> None:
        if key not in self.writes and key not in self.reads:
            self.reads.append(key)


class Tracer:
    """Runs and records passes over one set of caches.

    Args:
        lengths: tokens of each pass.

    Raises:
        Untraceable: the model does not call each of its layers once, in order.
    """

    def __init__(self, model: nn.Module, sites: LayerSites, lengths: tuple[int, ...]) -> None:
        self._model = model
        self._sites = sites
        self._count = len(sites.layers)
        self._cache = make_prompt_cache(model)
        self._leaves = [leaf for _, leaf in leaf_caches(self._cache)]
        self._cache_ids = {id(c) for c in [*self._cache, *self._leaves]}
        # Arrays are identified by id(), so every array with a recorded id is kept alive.
        self._makers: dict[int, int] = {}
        self._alive: list[Any] = []
        self._reader: Reader = BEFORE
        self.reads: dict[tuple[int, str], set[Reader]] = {}
        self.cache_users: dict[int, set[int]] = {}
        for owner, leaf in enumerate(self._leaves):
            self._note_history(owner, leaf)
        with self._reads_noted():
            self.passes = [self._run(length)[0] for length in lengths]
            self.last_axes = {
                path: axis
                for path, array in leaves(self.passes[1][-1].returned, self.opaque)
                if (axis := step_axis(lookup(self.passes[0][-1].returned, path), array, lengths))
                is not None
            }
            full, short = self._run(lengths[1])[1], self._run(lengths[1], last_only=True)[1]
            self.last_suffices = short.shape == (1, 1, *full.shape[2:])

    def close(self) -> None:
        """Drops all references to the model and its arrays.

        The spy classes form reference cycles, which the collector may free late.
        """
        for leaf in self._leaves:
            vars(leaf).clear()
        vars(self).clear()

    def opaque(self, value: object) -> bool:
        """Returns whether `value` is a cache or a proxy, whose arrays are not traced."""
        return id(value) in self._cache_ids or isinstance(value, LayerProxy)

    def _run(self, length: int, last_only: bool = False) -> tuple[list[LayerRecord], mx.array]:
        records: list[LayerRecord] = []
        self._reader = BEFORE

        def proxy_for(index: int, layer: nn.Module) -> LayerProxy:
            def call(*args: Any, **kwargs: Any) -> Any:
                if index != len(records):
                    raise Untraceable("it calls its layers more than once, or out of order")
                self._reader = index
                records.append(LayerRecord())
                result = self._call(index, layer, records[-1], args, kwargs, length)
                self._reader = AFTER if index == self._count - 1 else BETWEEN
                if last_only and index == self._count - 1:
                    return last_position(result, self.last_axes)
                return result

            return LayerProxy(layer, call)

        proxies = {i: proxy_for(i, layer) for i, layer in enumerate(self._sites.layers)}
        with self._sites.replaced_by(proxies):
            output = run_model(self._model, mx.zeros((1, length), dtype=mx.int32), self._cache)
        if not records:
            raise Untraceable("it uses the submodules of its layers instead of calling the layers")
        if len(records) < self._count:
            raise Untraceable("it does not call all of its layers")
        return records, output

    def _call(
        self,
        index: int,
        layer: nn.Module,
        record: LayerRecord,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        length: int,
    ) -> Any:
        arguments: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
        record.arguments = arguments
        shared = {key: _ReadsNoted(v) for key, v in arguments.items() if type(v) is dict}
        for key, value in arguments.items():
            if key not in shared:
                for path, array in leaves(value, self.opaque, (key,)):
                    record.given[path] = array
                    record.makers[path] = self._makers.get(id(array), NO_LAYER)

        inner = {**arguments, **shared}
        with self._effects_noted(index, record, list(arguments.values()), length):
            result = layer(  # type: ignore[operator]  # Module declares no __call__
                *(inner[i] for i in range(len(args))), **{k: inner[k] for k in kwargs}
            )

        for key, noted in shared.items():
            original: dict[Any, Any] = arguments[key]
            for name in noted.reads:
                found = original.get(name)
                record.given[key, name] = found if isinstance(found, mx.array) else None
                record.makers[key, name] = self._makers.get(_place(original, name), NO_LAYER)
            for name in noted.writes:
                original[name] = dict.get(noted, name)
                self._makers[_place(original, name)] = index
        record.returned = result
        self._alive.append(list(record.given.values()))
        for _, array in leaves(result, self.opaque):
            self._makers[id(array)] = index
        return result

    @contextmanager
    def _effects_noted(
        self, index: int, record: LayerRecord, given: list[Any], length: int
    ) -> Generator[None]:
        ids = {
            id(leaf) for cache in given if self.opaque(cache) for _, leaf in leaf_caches([cache])
        }
        used = {i: leaf for i, leaf in enumerate(self._leaves) if id(leaf) in ids}
        before = {i: {k: _copied(v) for k, v in vars(c).items()} for i, c in used.items()}
        advanced: set[int] = set()
        for i, leaf in used.items():
            if isinstance(leaf, ArraysCache):
                _note_calls(leaf, "advance", lambda _, i=i: advanced.add(i))
        yield
        for i, leaf in used.items():
            vars(leaf).pop("advance", None)
            effect = effect_of(leaf, before[i], i in advanced, length)
            if effect is None:
                raise Untraceable(f"a layer changes a {type(leaf).__name__} in an unsupported way")
            record.effects[i] = effect
            self.cache_users.setdefault(i, set()).add(index)

    def _note_history(self, owner: int, leaf: Any) -> None:
        """Records keys and values that the model reads from a cache as made by its layer."""

        def credit(taken: Any) -> None:
            users = self.cache_users.get(owner)
            self._alive.append(taken)
            for _, array in leaves(taken, self.opaque):
                self._makers[id(array)] = max(users) if users else NO_LAYER

        if hasattr(leaf, "keys_and_values"):
            _note_calls(leaf, "keys_and_values", credit)

    @contextmanager
    def _reads_noted(self) -> Generator[None]:
        """Records in `reads` the reader of each (module, parameter)."""
        modules = [module for _, module in modules_in(self._model)]
        classes = [type(module) for module in modules]
        spies = {cls: _spy(cls, self._note_read) for cls in set(classes)}
        try:
            for module in modules:
                if type(module) in spies:  # a shared module is already wrapped
                    module.__class__ = spies[type(module)]
            yield
        finally:
            for module, cls in zip(modules, classes, strict=True):
                module.__class__ = cls

    def _note_read(self, module: nn.Module, key: str) -> None:
        self.reads.setdefault((id(module), key), set()).add(self._reader)


def run_model(model: nn.Module, tokens: mx.array, cache: list[Any]) -> mx.array:
    """Runs the model. Returns the logits of `tokens`, shape (batch, length, vocabulary)."""
    output = model(tokens, cache=cache)  # type: ignore[operator]  # Module declares no __call__
    # olmo with tied weights returns its cache as well.
    return output[0] if isinstance(output, tuple) else output


def has_body(model: nn.Module) -> bool:
    """Returns whether the model has a submodule that holds everything but its vocabulary head."""
    return isinstance(getattr(model, "model", None), nn.Module)


def run_body(model: nn.Module, tokens: mx.array, cache: list[Any]) -> mx.array:
    """Runs the model without its vocabulary head. Returns (batch, length, hidden_size)."""
    return model.model(tokens, cache=cache)  # type: ignore[operator]  # see `has_body`


def step_axis(first: Any, second: mx.array, lengths: tuple[int, ...]) -> int | None:
    """Returns the axis of an array that has the length of the step in the first two passes.

    None when there is none, as in keys of the whole history.
    """
    if not isinstance(first, mx.array) or first.ndim != second.ndim:
        return None
    shapes = zip(first.shape, second.shape, strict=True)
    return next((i for i, pair in enumerate(shapes) if pair == lengths[:2]), None)


def last_position(returned: Any, axes: dict[Path, int]) -> Any:
    """Cuts a layer's result to the last position of the step."""
    for path, axis in axes.items():
        array = lookup(returned, path)
        if isinstance(array, mx.array):
            end = array.shape[axis]
            returned = replaced(returned, path, mx.split(array, [end - 1], axis)[1])
    return returned


def _place(shared: dict[Any, Any], name: Any) -> int:
    """Returns an identifier for an entry of a shared dictionary, whose value may be None."""
    return hash((id(shared), name))


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _note_calls(target: Any, name: str, note: Callable[[Any], object]) -> None:
    """Wraps a method of this one object so that `note` receives each result."""
    method = getattr(target, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        note(result)
        return result

    vars(target)[name] = noted


def _spy(cls: type[nn.Module], note: Callable[[nn.Module, str], None]) -> type[nn.Module]:
    class Spy(cls):  # type: ignore[misc,valid-type]  # a base known only at run time
        def __getattr__(self, key: str) -> Any:
            note(self, key)
            return super().__getattr__(key)

        def __getitem__(self, key: str) -> Any:
            note(self, key)
            return super().__getitem__(key)

    Spy.__name__ = cls.__name__
    return Spy
