"""Float32 weights for machines without Metal, where MLX has no fast kernels for other types."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten


def on_metal() -> bool:
    """Returns True if MLX computes on Apple's GPU."""
    return mx.metal.is_available()


def make_float32(model: nn.Module, plain: nn.Module) -> None:
    """Replaces quantised modules by dequantised ones, and casts every float to float32, lazily.

    Args:
        plain: the same model before quantisation; its modules are reused. A quantised module
            whose dequantised weight has another shape than its plain one stays quantised.
    """
    plain_modules = dict(plain.named_modules())
    replacements: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if "scales" not in module or "weight" not in module or not hasattr(module, "bits"):
            continue
        plain_module = plain_modules.get(name)
        if plain_module is None or "weight" not in plain_module:
            continue
        weight = _dequantized(module)
        if weight.shape == plain_module["weight"].shape:
            for key in module.keys() & plain_module.keys():
                plain_module[key] = module[key]
            plain_module["weight"] = weight
            replacements.append((name, plain_module))
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
