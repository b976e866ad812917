"""Float32 for machines without Metal, where MLX has no fast kernels for other types."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten


def on_metal() -> bool:
    """Whether MLX computes on Apple's GPU here."""
    return mx.metal.is_available()


def make_float32(model: nn.Module, plain: nn.Module) -> None:
    """Replace quantised modules by those of ``plain``, lazily, and every float by float32.

    Args:
        plain: the same model before it was quantised; its modules are taken over. A module
            that was quantised in a way MLX cannot undo is left as it is.
    """
    twins = dict(plain.named_modules())
    replacements: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if "scales" not in module or "weight" not in module or not hasattr(module, "bits"):
            continue
        twin = twins.get(name)
        if twin is None or "weight" not in twin:
            continue
        weight = _dequantized(module)
        if weight.shape == twin["weight"].shape:
            for key in module.keys() & twin.keys():
                twin[key] = module[key]
            twin["weight"] = weight
            replacements.append((name, twin))
    if replacements:
        model.update_modules(tree_unflatten(replacements))
    model.apply(lambda x: x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x)


def _dequantized(module: Any) -> mx.array:
    affine = module.mode == "affine"
    return mx.dequantize(
        module.weight,
        module.scales.astype(mx.float32) if affine else module.scales,
        module.biases.astype(mx.float32) if affine else None,
        group_size=module.group_size,
        bits=module.bits,
        mode=module.mode,
        global_scale=module.get("global_scale"),
        dtype=mx.float32,
    )
