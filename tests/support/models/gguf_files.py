"""Writes small random models as GGUF files, in the layout of llama.cpp's converter."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, LAYERS, VOCABULARY = 4, 2, 64, 256, 6, 128
CONFIG: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "intermediate_size": 256,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "rope_theta": 5000.0,
    "max_position_embeddings": 512,
}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {
    False: {"post_attention_layernorm": "ffn_norm"},
    True: {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}


def random_model(model_type: str, **settings: Any) -> Any:
    """Returns an mlx-lm model with random float32 weights, also in biases and norms."""
    module = import_module(f"mlx_lm.models.{model_type}")
    config = CONFIG | {"model_type": model_type} | settings
    model: nn.Module = module.Model(module.ModelArgs.from_dict(config))
    key = mx.random.key(3)
    drawn: list[tuple[str, mx.array]] = []
    for name, array in dict(tree_flatten(model.parameters())).items():  # type: ignore[arg-type]
        key, subkey = mx.random.split(key)
        noise = mx.random.normal(array.shape, key=subkey)
        drawn.append((name, 0.5 + 0.2 * noise if array.ndim < 2 else 0.06 * noise))
    model.update(tree_unflatten(drawn))
    mx.eval(model.parameters())
    model.eval()
    return model


def write_gguf(
    path: Path,
    architecture: str,
    model: Any,
    metadata: Mapping[str, Any],
    kinds: Mapping[str, str] | None = None,
    default: str = "F32",
    rope_factors: NDArray[np.float32] | None = None,
    scaling: str = "",
    file_type: int | None = None,
) -> None:
    """Writes the model's parameters.

    Args:
        kinds: GGML types, by the tensor's GGUF name without the layer.
        default: type of the other matrices.
    """
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_rope_freq_base(CONFIG["rope_theta"])
    if file_type is not None:
        writer.add_file_type(file_type)
    if scaling:
        writer.add_string(f"{architecture}.rope.scaling.type", scaling)
    for key, value in metadata.items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(f"{architecture}.{key}", value)
    gemma = architecture.startswith("gemma")
    for name, array in _parameters(model).items():
        values = np.array(array)
        module, _, last = name.rpartition(".")
        if gemma and values.ndim == 1:
            values = values + 1
        if architecture == "llama" and module.endswith(("q_proj", "k_proj")):
            values = _interleaved(values, HEADS if module.endswith("q_proj") else KV_HEADS)
        tensor = _tensor_name(module, architecture in ("gemma2", "gemma3"))
        kind = (kinds or {}).get(tensor.rpartition(".")[2], default if values.ndim > 1 else "F32")
        _add(writer, f"{tensor}.{last}", values.astype(np.float32), kind)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _parameters(model: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))  # type: ignore[arg-type]


def _tensor_name(module: str, four_norms: bool) -> str:
    if module.startswith("model.layers."):
        _, _, layer, inner = module.split(".", 3)
        return f"blk.{layer}.{({**_NAMES, **_NORMS[four_norms]})[inner]}"
    return _NAMES[module]


def _interleaved(values: NDArray[Any], heads: int) -> NDArray[Any]:
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(values.shape)


def _add(writer: GGUFWriter, name: str, values: NDArray[np.float32], kind: str) -> None:
    if kind == "F32":
        writer.add_tensor(name, values)
        return
    raw_type = GGMLQuantizationType[kind]
    if kind == "Q4_K":
        writer.add_tensor(name, _random_q4_k(values.shape), raw_dtype=raw_type)
        return
    writer.add_tensor(name, quantize(values, raw_type), raw_dtype=raw_type)


def _random_q4_k(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Returns random blocks, because the ``gguf`` package cannot quantise to this type."""
    generator = np.random.default_rng(5)
    blocks = generator.integers(0, 256, (shape[0], shape[1] // 256, 144), dtype=np.uint8)
    scales = generator.uniform(1e-4, 3e-4, (*blocks.shape[:2], 2)).astype(np.float16)
    blocks[..., :4] = scales.view(np.uint8)
    return blocks.reshape(shape[0], -1)
