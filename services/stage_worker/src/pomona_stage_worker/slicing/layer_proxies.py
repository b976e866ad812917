"""Swaps a model's layers for proxies during a forward pass."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import mlx.nn as nn

from pomona_stage_worker.slicing.tree_utils import holds, modules_in, substituted


class LayerProxy:
    """Replaces a layer in the model's list while the model runs.

    Forwards attributes, items and `isinstance` checks to the layer.
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
    def __class__(self) -> Any:  # type: ignore[override]  # read by isinstance
        return type(self._layer)


class LayerSites:
    """Every attribute of a model that holds layers, so that proxies can replace them."""

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
        # A model may cache computed values beside its weights. Values computed through proxies
        # are wrong afterwards, so the modules around the layers are restored after each call.
        self._restored = [
            module
            for name, module in self._outer
            if any(h == name or h.startswith(f"{name}.") or not name for h in holders)
        ]

    @contextmanager
    def replaced_by(self, proxies: dict[int, LayerProxy]) -> Generator[None]:
        """Replaces layers by proxies, by layer index, and restores the model on exit."""
        by_id = {id(self.layers[index]): proxy for index, proxy in proxies.items()}
        with restored_after(self._restored):
            for module, key in self._sites:
                dict.__setitem__(module, key, substituted(module[key], by_id))
            yield


@contextmanager
def restored_after(modules: list[nn.Module]) -> Generator[None]:
    """Restores items and attributes of the modules on exit."""
    saved = [(module, dict(module), dict(vars(module))) for module in modules]
    try:
        yield
    finally:
        for module, items, attributes in saved:
            dict.clear(module)
            dict.update(module, items)
            vars(module).clear()
            vars(module).update(attributes)
