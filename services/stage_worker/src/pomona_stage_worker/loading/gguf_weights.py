"""Tensors of a GGUF file as mlx-lm's parameters, read one by one, only when asked for.

Block formats: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h. MLX stores
a 4-bit group as eight values in a uint32, first value lowest, and ``w = scale * q + bias``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from gguf.quants import dequantize
from numpy.typing import NDArray

from pomona.errors import ModelError, ModelUnsupportedError
from pomona.models.gguf_file import field, open_gguf

GROUP_SIZE = 32

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


@dataclass(frozen=True, slots=True)
class Quantized:
    """An affine-quantised matrix in MLX's layout. ``bits`` is 4 or 8, groups are of 32."""

    weight: mx.array
    scales: mx.array
    biases: mx.array
    bits: int


class GgufWeights:
    """A GGUF file of the llama family.

    ``config`` is what mlx-lm would find in config.json; ``quantized_bits`` tells for each
    module name whether its matrix is stored in a form MLX computes with (4 or 8 bits).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader: GGUFReader = open_gguf(path)
        kind = field(self._reader, "general.architecture")
        if kind != "llama":
            raise ModelUnsupportedError(
                f"{path} is of the architecture {kind}; of GGUF files only llama can be read "
                "so far. Use the model's safetensors folder"
            )
        self.config = self._read_config()
        self._tensors: dict[str, ReaderTensor] = {}
        for tensor in self._reader.tensors:
            name = self._module_name(str(tensor.name))
            if name is not None:
                self._tensors[name] = tensor

    @property
    def quantized_bits(self) -> dict[str, int]:
        bits = {
            GGMLQuantizationType.Q4_0: 4,
            GGMLQuantizationType.Q4_1: 4,
            GGMLQuantizationType.Q8_0: 8,
        }
        return {
            name: bits[tensor.tensor_type]
            for name, tensor in self._tensors.items()
            if tensor.tensor_type in bits
        }

    def stored_bytes(self, modules: set[str]) -> int:
        return sum(int(t.n_bytes) for name, t in self._tensors.items() if name in modules)

    def matrix(self, module: str) -> mx.array:
        """The tensor of a module as float32, dequantised when it was quantised."""
        tensor = self._tensor(module)
        if module in self.quantized_bits:
            q = self.quantized(module)
            return mx.dequantize(
                q.weight,
                q.scales.astype(mx.float32),
                q.biases.astype(mx.float32),
                group_size=GROUP_SIZE,
                bits=q.bits,
            )
        data = dequantize(tensor.data, tensor.tensor_type)
        return mx.array(self._rows_in_order(module, data.astype(np.float32)))

    def quantized(self, module: str) -> Quantized:
        """The tensor of a module in MLX's quantised form."""
        tensor = self._tensor(module)
        unpack = _UNPACK[tensor.tensor_type]
        rows = self._rows_in_order(module, np.asarray(tensor.data))
        return unpack(rows)

    def _tensor(self, module: str) -> ReaderTensor:
        tensor = self._tensors.get(module)
        if tensor is None:
            raise ModelError(f"{self.path} lacks the tensor of {module}")
        return tensor

    def _rows_in_order(self, module: str, rows: NDArray[Any]) -> NDArray[Any]:
        """Undo llama.cpp's interleaving of the two rotary halves in q and k."""
        if module.endswith(("self_attn.q_proj", "self_attn.k_proj")):
            heads = self.config[
                "num_attention_heads" if module.endswith("q_proj") else "num_key_value_heads"
            ]
            half = rows.shape[0] // heads // 2
            rows = rows.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)
        return rows

    def _read_config(self) -> dict[str, Any]:
        def need(key: str) -> Any:
            value = field(self._reader, f"llama.{key}")
            if value is None:
                raise ModelUnsupportedError(f"{self.path} lacks the metadata llama.{key}")
            return value

        if field(self._reader, "llama.expert_count"):
            raise ModelUnsupportedError(f"{self.path} has experts; only dense llama is read so far")
        if field(self._reader, "llama.rope.scaling.type", "none") not in ("none", ""):
            raise ModelUnsupportedError(f"{self.path} scales its rotary embedding; not read so far")
        heads = int(need("attention.head_count"))
        tensors = {str(tensor.name): tensor for tensor in self._reader.tensors}
        if "token_embd.weight" not in tensors:
            raise ModelError(f"{self.path} lacks the tensor token_embd.weight")
        hidden = int(need("embedding_length"))
        return {
            "model_type": "llama",
            "hidden_size": hidden,
            "num_hidden_layers": int(need("block_count")),
            "intermediate_size": int(need("feed_forward_length")),
            "num_attention_heads": heads,
            "num_key_value_heads": int(field(self._reader, "llama.attention.head_count_kv", heads)),
            "head_dim": int(field(self._reader, "llama.attention.key_length", hidden // heads)),
            "rms_norm_eps": float(need("attention.layer_norm_rms_epsilon")),
            "vocab_size": int(tensors["token_embd.weight"].shape[1]),
            "rope_theta": float(field(self._reader, "llama.rope.freq_base", 10000.0)),
            "max_position_embeddings": int(need("context_length")),
            "tie_word_embeddings": "output.weight" not in tensors,
        }

    @staticmethod
    def _module_name(tensor: str) -> str | None:
        parts = tensor.split(".")
        if parts[-1] != "weight":
            return None
        if parts[0] == "blk" and parts[2] in _LAYER_NAMES:
            return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}"
        return _OUTER_NAMES.get(parts[0])


def _halves(blocks: NDArray[np.uint8], offset: int) -> NDArray[np.float16]:
    """The float16 at ``offset`` of each block."""
    return np.ascontiguousarray(blocks[..., offset : offset + 2]).view(np.float16)[..., 0]


def _nibbles(blocks: NDArray[np.uint8], offset: int) -> NDArray[np.uint32]:
    """16 bytes of 32 values (low nibbles first) as 4 words of 8 values."""
    packed = blocks[..., offset : offset + 16]
    values = np.concatenate([packed & 0xF, packed >> 4], axis=-1)
    joined = values[..., 0::2] | (values[..., 1::2] << 4)
    return np.ascontiguousarray(joined).view(np.uint32)


def _quantized(
    words: NDArray[np.uint32], scales: NDArray[Any], biases: NDArray[Any], bits: int
) -> Quantized:
    weight = words.reshape(words.shape[0], -1)
    return Quantized(mx.array(weight), mx.array(scales), mx.array(biases), bits)


def _q4_0(rows: NDArray[np.uint8]) -> Quantized:
    blocks = rows.reshape(rows.shape[0], -1, 18)
    scales = _halves(blocks, 0)
    return _quantized(_nibbles(blocks, 2), scales, scales * np.float16(-8), 4)


def _q4_1(rows: NDArray[np.uint8]) -> Quantized:
    blocks = rows.reshape(rows.shape[0], -1, 20)
    return _quantized(_nibbles(blocks, 4), _halves(blocks, 0), _halves(blocks, 2), 4)


def _q8_0(rows: NDArray[np.uint8]) -> Quantized:
    blocks = rows.reshape(rows.shape[0], -1, 34)
    scales = _halves(blocks, 0)
    values = np.ascontiguousarray(blocks[..., 2:]) ^ np.uint8(0x80)
    return _quantized(values.view(np.uint32), scales, scales * np.float16(-128), 8)


_UNPACK: dict[GGMLQuantizationType, Callable[[NDArray[np.uint8]], Quantized]] = {
    GGMLQuantizationType.Q4_0: _q4_0,
    GGMLQuantizationType.Q4_1: _q4_1,
    GGMLQuantizationType.Q8_0: _q8_0,
}
