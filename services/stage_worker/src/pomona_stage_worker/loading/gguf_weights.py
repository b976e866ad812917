"""Reads tensors of a GGUF file as mlx-lm parameters, one at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from pomona.errors import ModelError, ModelUnsupportedError
from pomona.models.formats.gguf_header import (
    CONVERTED_BITS,
    FLOAT_TYPES,
    NATIVE_BITS,
    GgufTensor,
    read_gguf_header,
)
from pomona.models.formats.safetensors_index import TensorPlace
from pomona_stage_worker.hardware.cpu_float32 import on_metal
from pomona_stage_worker.loading.gguf_families import Metadata, config_of, family_of
from pomona_stage_worker.loading.gguf_repack import GROUP_SIZE, Quantized, repack

log = logging.getLogger(__name__)


class GgufWeights:
    """Weights of a GGUF file.

    On Metal a matrix stays quantised: repacked when MLX has its type, converted to 8 bits
    otherwise. On other devices everything becomes float32.

    Attributes:
        config: the equivalent config.json.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_gguf_header(path, lists=False)
        kind = str(header.fields.get("general.architecture"))
        self._family = family_of(kind, path)
        self._tensors: dict[str, GgufTensor] = {}
        named = {tensor.name: tensor for tensor in header.tensors}
        if "token_embd.weight" not in named:
            raise ModelError(f"{path} has no tensor token_embd.weight")
        shapes = {name: tensor.shape for name, tensor in named.items()}
        self.config = config_of(Metadata(path, kind, header.fields), self._family, shapes)
        for name, tensor in named.items():
            module = self._family.module(name)
            if module is not None:
                self._tensors[f"{module}.{name.rpartition('.')[2]}"] = tensor
        self._rope = named.get("rope_freqs.weight")
        self._wide = self._family.wide or any(x.kind == "BF16" for x in header.tensors)
        self._converted: dict[str, int] = {}

    def places(self, parameters: Iterable[str]) -> list[TensorPlace]:
        """Returns the places of these parameters' tensors and of every stage's tensors."""
        named = {self._tensor_of(name) for name in parameters}
        tensors = [self._tensors[name] for name in named if name in self._tensors]
        common = [] if self._rope is None else [self._rope]
        return [self._place(tensor) for tensor in (*tensors, *common)]

    def _place(self, tensor: GgufTensor) -> TensorPlace:
        end = tensor.begin + tensor.stored_bytes
        return TensorPlace(self.path, tensor.kind, tensor.shape, tensor.begin, end)

    def make_model(self) -> nn.Module:
        """Builds the whole model with mlx-lm's random initial weights, never evaluated."""
        architecture = import_module(f"mlx_lm.models.{self.config['model_type']}")
        try:
            arguments = architecture.ModelArgs.from_dict(self.config)
            model: nn.Module = architecture.Model(arguments)
        except (TypeError, ValueError, KeyError) as error:
            raise ModelUnsupportedError(f"{self.path} cannot be built: {error}") from error
        if on_metal():
            nn.quantize(model, class_predicate=self._quantization)
        model.set_dtype(self._dtype)
        if self._rope is not None:
            self._set_frequencies(model, self._rope)
        model.eval()
        return model

    def parameters(self, parameter: str) -> dict[str, mx.array]:
        """Reads a parameter, with scales and biases when it is quantised."""
        name = self._tensor_of(parameter)
        module = name.rpartition(".")[0]
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ModelError(f"{self.path} has no tensor for {parameter}")
        kept = self._kept_bits(name)
        if not on_metal() or kept is None:
            return {name: self._plain(module, tensor).astype(self._dtype)}
        if tensor.kind in NATIVE_BITS:
            q = repack(tensor.kind, self._rows(module, tensor))
            parts = (q.weight, q.scales, q.biases)
        else:
            self._converted[tensor.kind] = self._converted.get(tensor.kind, 0) + 1
            plain = self._plain(module, tensor)
            parts = mx.quantize(plain, group_size=GROUP_SIZE, bits=CONVERTED_BITS)
        weight, scales, biases = parts
        return {
            name: weight,
            f"{module}.scales": scales.astype(self._dtype),
            f"{module}.biases": biases.astype(self._dtype),
        }

    @staticmethod
    def _tensor_of(parameter: str) -> str:
        """Maps scales and biases to their weight: a GGUF file stores them as one tensor."""
        module, _, last = parameter.rpartition(".")
        return f"{module}.weight" if last in ("scales", "biases") else parameter

    def log_conversions(self) -> None:
        """Logs the matrices converted because MLX lacks their type."""
        if self._converted:
            kinds = ", ".join(f"{n} of {kind}" for kind, n in sorted(self._converted.items()))
            log.warning(
                "matrices of types that MLX lacks are converted to %d bits: %s",
                CONVERTED_BITS, kinds, extra={"source": str(self.path)},
            )  # fmt: skip
            self._converted.clear()

    @property
    def _dtype(self) -> mx.Dtype:
        if not on_metal():
            return mx.float32
        return mx.bfloat16 if self._wide else mx.float16

    def _kept_bits(self, parameter: str) -> int | None:
        """Returns the bits of a parameter in memory; None when it is not quantised."""
        tensor = self._tensors.get(parameter)
        if tensor is None or tensor.kind in FLOAT_TYPES or len(tensor.shape) < 2:
            return None
        return NATIVE_BITS.get(tensor.kind, CONVERTED_BITS)

    def _quantization(self, name: str, module: nn.Module) -> bool | dict[str, int]:
        bits = self._kept_bits(f"{name}.weight")
        if bits is None or not hasattr(module, "to_quantized"):
            return False
        return {"group_size": GROUP_SIZE, "bits": bits}

    def _plain(self, module: str, tensor: GgufTensor) -> mx.array:
        """Reads a tensor as float32."""
        if tensor.kind in NATIVE_BITS:
            found: Quantized = repack(tensor.kind, self._rows(module, tensor))
            return found.dequantized()
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        rows = self._rows(module, tensor)
        plain = dequantize(rows, GGMLQuantizationType[tensor.kind]).astype(np.float32, copy=False)
        array = mx.array(plain.reshape(tensor.shape))
        if self._family.norm_offset and len(tensor.shape) == 1 and tensor.name.endswith("weight"):
            array = array - self._family.norm_offset
        return array

    def _rows(self, module: str, tensor: GgufTensor) -> NDArray[np.uint8]:
        """Reads a tensor's raw bytes in mlx-lm's row order, shape (matrix rows, bytes a row)."""
        with self.path.open("rb") as file:
            file.seek(tensor.begin)
            raw = np.fromfile(file, np.uint8, tensor.stored_bytes)
        if raw.size != tensor.stored_bytes:
            raise ModelError(
                f"{self.path} is truncated: tensor {tensor.name} lacks "
                f"{tensor.stored_bytes - raw.size} bytes; copy or download it again"
            )
        rotary = self._family.interleaved and module.endswith(("attn.q_proj", "attn.k_proj"))
        if not rotary:
            return raw.reshape(prod(tensor.shape[:-1]) if len(tensor.shape) > 1 else 1, -1)
        rows = raw.reshape(tensor.shape[0], -1)
        which = "num_attention_heads" if module.endswith("q_proj") else "num_key_value_heads"
        heads = self.config[which]
        half = rows.shape[0] // heads // 2
        return rows.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)

    def _set_frequencies(self, model: Any, tensor: GgufTensor) -> None:
        """Sets the rotary frequencies scaled by the file (llama 3.1 and later)."""
        factors = self._plain("", tensor)
        size = self.config["head_dim"]
        freqs = self.config["rope_theta"] ** (mx.arange(0, size, 2) / size) * factors
        for layer in model.layers:
            layer.self_attn.rope._freqs = freqs
