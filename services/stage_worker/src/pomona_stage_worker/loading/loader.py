"""Bring only one stage's tensors into memory, then make the stage of them.

The two are apart because an MLX array that is not evaluated yet belongs to the thread that
made it: a loader thread reads and evaluates for minutes, while the thread that runs the
steps assembles the stage in an instant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import load_model

from pomona.errors import ModelError, ModelUnsupportedError
from pomona.models import resolve
from pomona.models.folder import read_json
from pomona_stage_worker.loading.gguf_weights import GROUP_SIZE, GgufWeights
from pomona_stage_worker.slicing import StageModel, owned_parameters, slice_model

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (bytes in memory so far, bytes in all)."""


@dataclass(frozen=True, slots=True)
class StageWeights:
    """What a stage needs in memory.

    Attributes:
        make_model: builds the whole mlx-lm model, every weight lazy.
        arrays: the owned parameters, evaluated, by name.
    """

    source: str
    start: int
    stop: int
    make_model: Callable[[], nn.Module]
    arrays: Mapping[str, mx.array]

    @property
    def nbytes(self) -> int:
        return sum(int(array.nbytes) for array in self.arrays.values())


def on_metal() -> bool:
    """Whether MLX computes on Apple's GPU here."""
    return mx.metal.is_available()


def read_weights(
    source: str, start: int, stop: int, progress: Progress, have: StageWeights | None = None
) -> StageWeights:
    """Read the parameters that layers ``[start, stop)`` of the model at ``source`` need.

    On a machine without Metal all weights become float32, since MLX has no fast kernels
    for other types there. What ``have`` holds of the same source is kept, not read again.
    Raises ModelError naming file and tensor.
    """
    path = resolve(source)
    held = have.arrays if have is not None and have.source == source else {}
    try:
        if path.is_dir():
            return _read_folder(source, path, start, stop, progress, held)
        return _read_gguf(source, path, start, stop, progress, held)
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"{path} cannot be loaded: {error}") from error


def assemble(weights: StageWeights) -> StageModel:
    """The stage, to be called by this thread only."""
    model = weights.make_model()
    model.load_weights(list(weights.arrays.items()), strict=False)
    return slice_model(model, weights.start, weights.stop)


def _parameters(model: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def _owned(path: Path, model: Any, start: int, stop: int) -> set[str]:
    layer_count = len(model.layers)
    if not 0 <= start < stop <= layer_count:
        raise ModelError(f"{path} has {layer_count} layers; [{start}, {stop}) is no part of it")
    return owned_parameters(model, start, stop)


def _read_folder(
    source: str,
    path: Path,
    start: int,
    stop: int,
    progress: Progress,
    held: Mapping[str, mx.array],
) -> StageWeights:
    config = read_json(path / "config.json")
    if "model_file" in config:
        raise ModelUnsupportedError(
            f"{path / 'config.json'} asks to run {config['model_file']}, and Pomona never runs "
            "a model's own code; use a model of an architecture that mlx-lm has"
        )

    def make_model() -> nn.Module:
        model, _ = load_model(path, lazy=True, strict=True)
        if not on_metal():
            _make_float32(model)
        model.eval()
        return model

    model = make_model()
    owned = _owned(path, model, start, stop)
    wanted = {name: array for name, array in _parameters(model).items() if name in owned}
    total = sum(int(array.nbytes) for array in wanted.values())
    arrays: dict[str, mx.array] = {}
    done = 0
    for name, lazy in wanted.items():
        progress(done, total)
        array = held.get(name, lazy)
        mx.eval(array)
        arrays[name] = array
        done += int(array.nbytes)
    progress(done, total)
    return StageWeights(source, start, stop, make_model, arrays)


def _make_float32(model: nn.Module) -> None:
    """Replace quantised modules by plain ones, lazily, and every float by float32."""

    def plain(module: Any) -> nn.Module:
        weight = mx.dequantize(
            module.weight,
            module.scales.astype(mx.float32) if module.mode == "affine" else module.scales,
            module.biases.astype(mx.float32) if module.mode == "affine" else None,
            group_size=module.group_size,
            bits=module.bits,
            mode=module.mode,
        )
        if isinstance(module, nn.QuantizedEmbedding):
            embedding = nn.Embedding(1, 1)
            embedding.weight = weight
            return embedding
        linear = nn.Linear(1, 1, bias="bias" in module)
        linear.weight = weight
        if "bias" in module:
            linear.bias = module.bias
        return linear

    replacements = [
        (name, plain(module))
        for name, module in model.named_modules()
        if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding)
    ]
    if replacements:
        model.update_modules(tree_unflatten(replacements))
    model.apply(lambda x: x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x)


def _read_gguf(
    source: str,
    path: Path,
    start: int,
    stop: int,
    progress: Progress,
    held: Mapping[str, mx.array],
) -> StageWeights:
    weights = GgufWeights(path)
    bits = weights.quantized_bits if on_metal() else {}
    config = weights.config

    def quantization(name: str, module: nn.Module) -> bool | dict[str, int]:
        if name in bits and hasattr(module, "to_quantized"):
            return {"group_size": GROUP_SIZE, "bits": bits[name]}
        return False

    def make_model() -> nn.Module:
        architecture = import_module(f"mlx_lm.models.{config['model_type']}")
        model: nn.Module = architecture.Model(architecture.ModelArgs.from_dict(config))
        if bits:
            nn.quantize(model, class_predicate=quantization)
        model.eval()
        return model

    owned = _owned(path, make_model(), start, stop)
    modules = sorted({name.rpartition(".")[0] for name in owned})
    total = weights.stored_bytes(set(modules))
    arrays: dict[str, mx.array] = {}
    done = 0
    for module in modules:
        progress(done, total)
        names = {name for name in owned if name.rpartition(".")[0] == module}
        if names <= held.keys():
            parts = {name: held[name] for name in names}
        elif module in bits:
            q = weights.quantized(module)
            parts = {
                f"{module}.weight": q.weight,
                f"{module}.scales": q.scales,
                f"{module}.biases": q.biases,
            }
        else:
            parts = {f"{module}.weight": weights.matrix(module)}
        mx.eval(parts)
        arrays.update(parts)
        done += weights.stored_bytes({module})
    progress(done, total)
    return StageWeights(source, start, stop, make_model, arrays)
