"""Watching a model run once, without evaluating anything, to learn how it may be cut.

MLX builds a graph and computes nothing until asked, so a forward pass costs a few
milliseconds and no memory, whatever the size of the model and whether or not its weights
are loaded. From a few such passes, one after the other over the same caches, we see

- which layers are called, in which order, and what each is given that an earlier layer or
  the embedding made: these arrays cross a cut;
- what each layer does to which caches, so that phantoms can repeat it;
- which parameters are read before, by and after the layers.

No family is known by name here. Every rule is about what was seen.
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

# Who reads a parameter: the code before the layers, a layer, or the code after them.
BEFORE, AFTER, BETWEEN = "before", "after", "between"
Reader = str | int
# The maker of an array that no layer made.
NO_LAYER = -1


class Untraceable(Exception):
    """The model does something that cannot be cut; the message says what."""


@dataclass
class LayerRecord:
    """What one layer was seen to do in one pass.

    Attributes:
        given: the arrays among its arguments. None for one it looked for and did not find.
        makers: for each of these the layer that made it, or `NO_LAYER`.
        arguments: the arguments as they were given.
        returned: what it returned.
        effects: what it did to each cache it used, by index among the leaf caches.
    """

    given: dict[Path, mx.array | None] = field(default_factory=dict[Path, "mx.array | None"])
    makers: dict[Path, int] = field(default_factory=dict[Path, int])
    arguments: dict[int | str, Any] = field(default_factory=dict[int | str, Any])
    returned: Any = None
    effects: dict[int, Effect] = field(default_factory=dict[int, Effect])


class _ReadsNoted(dict[Any, Any]):
    """A dictionary that layers share, noting what a layer reads that it did not write."""

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
    """Passes of growing length over one set of caches.

    Args:
        lengths: tokens of each pass.

    Raises:
        Untraceable: when the model does not call each of its layers once, in order.
    """

    def __init__(self, model: nn.Module, sites: LayerSites, lengths: tuple[int, ...]) -> None:
        self._model = model
        self._sites = sites
        self._count = len(sites.layers)
        self._cache = make_prompt_cache(model)
        self._leaves = [leaf for _, leaf in leaf_caches(self._cache)]
        self._cache_ids = {id(c) for c in [*self._cache, *self._leaves]}
        # Arrays are known by their ids, so everything with an id in use is kept alive.
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
        """Let go of the model and its arrays: the spies refer to themselves and to this, and
        may be collected late."""
        for leaf in self._leaves:
            vars(leaf).clear()
        vars(self).clear()

    def opaque(self, value: object) -> bool:
        """Whether `value` is no container of arrays for our purpose."""
        return id(value) in self._cache_ids or isinstance(value, LayerProxy)

    def _run(self, length: int, last_only: bool = False) -> tuple[list[LayerRecord], mx.array]:
        records: list[LayerRecord] = []
        self._reader = BEFORE

        def stand_in(index: int, layer: nn.Module) -> LayerProxy:
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

        stand_ins = {i: stand_in(i, layer) for i, layer in enumerate(self._sites.layers)}
        with self._sites.replaced_by(stand_ins):
            output = run_model(self._model, mx.zeros((1, length), dtype=mx.int32), self._cache)
        if not records:
            raise Untraceable("it does not call its layers, but reaches into them")
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
                raise Untraceable(f"a layer does to a {type(leaf).__name__} what is not understood")
            record.effects[i] = effect
            self.cache_users.setdefault(i, set()).add(index)

    def _note_history(self, owner: int, leaf: Any) -> None:
        """Credit to the layer of a cache the keys that the model itself takes out of it."""

        def credit(taken: Any) -> None:
            users = self.cache_users.get(owner)
            self._alive.append(taken)
            for _, array in leaves(taken, self.opaque):
                self._makers[id(array)] = max(users) if users else NO_LAYER

        if hasattr(leaf, "keys_and_values"):
            _note_calls(leaf, "keys_and_values", credit)

    @contextmanager
    def _reads_noted(self) -> Generator[None]:
        """Notes in `reads` which module reads which of its entries, and for whom."""
        modules = [module for _, module in modules_in(self._model)]
        classes = [type(module) for module in modules]
        spies = {cls: _spy(cls, self._note_read) for cls in set(classes)}
        try:
            for module in modules:
                if type(module) in spies:  # one that is held twice has its spy already
                    module.__class__ = spies[type(module)]
            yield
        finally:
            for module, cls in zip(modules, classes, strict=True):
                module.__class__ = cls

    def _note_read(self, module: nn.Module, key: str) -> None:
        self.reads.setdefault((id(module), key), set()).add(self._reader)


def run_model(model: nn.Module, tokens: mx.array, cache: list[Any]) -> mx.array:
    """The logits of `tokens`, shape (batch, length, vocabulary)."""
    output = model(tokens, cache=cache)  # type: ignore[operator]  # Module declares no __call__
    # olmo with tied weights returns its cache as well.
    return output[0] if isinstance(output, tuple) else output


def has_body(model: nn.Module) -> bool:
    """Whether the model keeps all but its vocabulary head in a module of its own."""
    return isinstance(getattr(model, "model", None), nn.Module)


def run_body(model: nn.Module, tokens: mx.array, cache: list[Any]) -> mx.array:
    """What the vocabulary head is applied to, shape (batch, length, hidden_size)."""
    return model.model(tokens, cache=cache)  # type: ignore[operator]  # see `has_body`


def step_axis(first: Any, second: mx.array, lengths: tuple[int, ...]) -> int | None:
    """The axis along which an array follows the tokens of a step, seen in the first two
    passes; None when there is none, as in keys that follow the whole history."""
    if not isinstance(first, mx.array) or first.ndim != second.ndim:
        return None
    shapes = zip(first.shape, second.shape, strict=True)
    return next((i for i, pair in enumerate(shapes) if pair == lengths[:2]), None)


def last_position(returned: Any, axes: dict[Path, int]) -> Any:
    """What a layer returned, with only the last position of the step."""
    for path, axis in axes.items():
        array = lookup(returned, path)
        if isinstance(array, mx.array):
            end = array.shape[axis]
            returned = replaced(returned, path, mx.split(array, [end - 1], axis)[1])
    return returned


def _place(shared: dict[Any, Any], name: Any) -> int:
    """Stands for an entry of a shared dictionary, whose value may be None, as an array's id
    stands for the array."""
    return hash((id(shared), name))


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _note_calls(target: Any, name: str, note: Callable[[Any], object]) -> None:
    """Let `note` see what each call of a method of this one object returns."""
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
