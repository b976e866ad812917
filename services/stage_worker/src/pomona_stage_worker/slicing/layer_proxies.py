"""Where a model keeps its layers, and how others stand in for them during a call."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import mlx.nn as nn

from pomona_stage_worker.slicing.tree_utils import holds, modules_in, substituted


class LayerProxy:
    """Takes a layer's place in the model's list while the model runs.

    Attributes, and what `isinstance` sees, are those of the layer it stands for.
    """

    def __init__(self, layer: nn.Module, call: Callable[..., Any]) -> None:
        self._layer = layer
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __contains__(self, name: str) -> bool:
        return name in self._layer

    def __getitem__(self, name: str) -> Any:
        return self._layer[name]

    @property
    def __class__(self) -> Any:  # type: ignore[override]  # what isinstance consults
        return type(self._layer)


class LayerSites:
    """Where a model keeps its layers, so that others can stand in for them during a call."""

    def __init__(self, model: nn.Module) -> None:
        self.layers: list[nn.Module] = list(getattr(model, "layers", ()))
        ids = {id(layer) for layer in self.layers}
        inside = {id(m) for layer in self.layers for _, m in modules_in(layer)}
        self._sites: list[tuple[nn.Module, str]] = []
        holders: set[str] = set()
        self._outer: list[tuple[str, nn.Module]] = []
        for name, module in modules_in(model):
            if id(module) in inside:
                continue
            self._outer.append((name, module))
            for key, value in module.items():
                if holds(value, ids):
                    self._sites.append((module, key))
                    holders.add(name)
        # A model may remember what it computed beside its weights. What it computes while
        # others stand in for its layers is worthless, so it is made to forget.
        self._forgetful = [
            module
            for name, module in self._outer
            if any(h == name or h.startswith(f"{name}.") or not name for h in holders)
        ]

    @contextmanager
    def replaced_by(self, stand_ins: dict[int, LayerProxy]) -> Generator[None]:
        """The model with stand-ins, by layer index; as it was before when this is left."""
        by_id = {id(self.layers[index]): stand_in for index, stand_in in stand_ins.items()}
        with remembering(self._forgetful):
            for module, key in self._sites:
                dict.__setitem__(module, key, substituted(module[key], by_id))
            yield


@contextmanager
def remembering(modules: list[nn.Module]) -> Generator[None]:
    """Puts everything the modules hold back as it was."""
    kept = [(module, dict(module), dict(vars(module))) for module in modules]
    try:
        yield
    finally:
        for module, items, attributes in kept:
            dict.clear(module)
            dict.update(module, items)
            vars(module).clear()
            vars(module).update(attributes)
